//! Op and operand shapes → the shape of the value, or the first number that does not fit.

use super::ops::{
    Attention, CacheWrite, Combine, Elementwise, Embed, ExpertPart, Experts, HeadMatMul, Mask, MatMul, Moe, Norm, Rope,
    Route, Rows, Select, Values,
};
use super::{
    CacheHalf, Element, GraphError, Input, InputId, Node, NodeId, Op, RowDim, State, StateId, Value, Weight, WeightId,
};
use crate::index::{Id, IndexVec};

/// What the op under inference can see.
pub(super) struct Scope<'a> {
    pub nodes: &'a [Node],
    pub values: &'a [Value],
    pub weights: &'a IndexVec<WeightId, Weight>,
    pub states: &'a IndexVec<StateId, State>,
    pub inputs: &'a IndexVec<InputId, Input>,
}

/// The value that `op` makes; operands are known to exist.
pub(super) fn infer(name: &str, op: &Op, scope: &Scope<'_>) -> Result<Value, GraphError> {
    let at = At { name, scope };
    match op {
        Op::Rows(Rows::Embed(op)) => at.embed(op),
        Op::Rows(Rows::Select(op)) => at.select(op),
        Op::Norm(op) => at.norm(op),
        Op::MatMul(op) => at.matmul(op),
        Op::HeadMatMul(op) => at.head_matmul(op),
        Op::Rope(op) => at.rope(op),
        Op::Cache(op) => at.cache(op),
        Op::Attention(op) => at.attention(op),
        Op::Elementwise(op) => at.elementwise(op),
        Op::Moe(Moe::Route(op)) => at.route(op),
        Op::Moe(Moe::Experts(op)) => at.experts(op),
        Op::Moe(Moe::Combine(op)) => at.combine(op),
    }
}

struct At<'a> {
    name: &'a str,
    scope: &'a Scope<'a>,
}

impl At<'_> {
    fn embed(&self, op: &Embed) -> Result<Value, GraphError> {
        let weight = &self.scope.weights[op.weight];
        self.input(op.ids, Input::TokenIds, "ids")?;
        self.equal("embedding matrices", 1, weight.count)?;
        self.range("scale", op.scale, op.scale.is_finite())?;
        Ok(Value { element: Element::F32, rows: RowDim::Tokens, cols: weight.cols })
    }

    fn select(&self, op: &Select) -> Result<Value, GraphError> {
        let x = self.floats(op.x, "x")?;
        self.input(op.rows, Input::OutputRows, "rows")?;
        self.rows("x", RowDim::Tokens, x)?;
        Ok(Value { rows: RowDim::Outputs, ..x })
    }

    fn norm(&self, op: &Norm) -> Result<Value, GraphError> {
        let x = self.floats(op.x, "x")?;
        let slice = self.even("x", x.cols, op.heads)?;
        self.range("carried elements", op.carried as f32, op.carried < slice)?;
        self.vector(op.weight, "norm weight elements", slice - op.carried)?;
        self.range("eps", op.eps, op.eps.is_finite() && op.eps >= 0.0)?;
        Ok(x)
    }

    fn matmul(&self, op: &MatMul) -> Result<Value, GraphError> {
        let x = self.floats(op.x, "x")?;
        let weight = &self.scope.weights[op.weight];
        self.equal("weight matrices", 1, weight.count)?;
        self.equal("columns of x", weight.cols, x.cols)?;
        if let Some(bias) = op.bias {
            self.vector(bias, "bias elements", weight.rows)?;
        }
        let out = Value { cols: weight.rows, ..x };
        self.residual(op.residual, out)?;
        Ok(out)
    }

    fn head_matmul(&self, op: &HeadMatMul) -> Result<Value, GraphError> {
        let x = self.floats(op.x, "x")?;
        let weight = &self.scope.weights[op.weight];
        let head = |own: u32| own.checked_add(op.carried).unwrap_or(0);
        self.product("columns of x", weight.count, head(weight.cols), x.cols)?;
        Ok(Value { cols: self.times("columns of all heads", weight.count, head(weight.rows))?, ..x })
    }

    fn rope(&self, op: &Rope) -> Result<Value, GraphError> {
        let x = self.floats(op.x, "x")?;
        self.input(op.positions, Input::Positions, "positions")?;
        self.rows("x", RowDim::Tokens, x)?;
        self.product("columns of x", op.heads, op.head_dim, x.cols)?;
        let fits = op.rotary > 0 && op.rotary <= op.head_dim && op.rotary.is_multiple_of(2);
        self.range("rotary", op.rotary as f32, fits)?;
        self.range("offset", op.offset as f32, op.offset <= op.head_dim - op.rotary)?;
        self.range("base", op.base, op.base.is_finite() && op.base > 0.0)?;
        if let Some(factors) = op.factors {
            self.vector(factors, "rope factors", op.rotary / 2)?;
        }
        Ok(x)
    }

    fn cache(&self, op: &CacheWrite) -> Result<Value, GraphError> {
        let k = self.floats(op.k, "k")?;
        self.rows("k", RowDim::Tokens, k)?;
        let keys = self.keys(op.keys)?;
        self.product("columns of k", keys.heads, keys.head_dim, k.cols)?;
        self.equal("values to write", u32::from(op.values.is_some()), u32::from(op.v.is_some()))?;
        if let (Some(v), Some(values)) = (op.v, op.values) {
            let (v, values) = (self.floats(v, "v")?, self.values(keys, values)?);
            self.rows("v", RowDim::Tokens, v)?;
            self.product("columns of v", values.heads, values.head_dim, v.cols)?;
        }
        Ok(Value { element: Element::F32, rows: RowDim::Tokens, cols: 0 })
    }

    fn attention(&self, op: &Attention) -> Result<Value, GraphError> {
        let q = self.floats(op.q, "q")?;
        self.rows("q", RowDim::Tokens, q)?;
        let keys = self.keys(op.keys)?;
        let value_dim = match op.values {
            Values::State(values) => self.values(keys, values)?.head_dim,
            Values::Prefix { prefix } => prefix,
        };
        let prefix = op.values.state().is_some() || value_dim <= keys.head_dim;
        self.range("prefix of the keys", value_dim as f32, prefix)?;
        self.equal("columns of the cache write", 0, self.value(op.write).cols)?;
        self.even("query heads", op.heads, keys.heads)?;
        self.product("columns of q", op.heads, keys.head_dim, q.cols)?;
        self.range("scale", op.scale, op.scale.is_finite())?;
        match op.mask {
            Mask::Causal => {}
            Mask::Window(n) => self.range("window", n as f32, n > 0)?,
        }
        if let Some(kept) = keys.window {
            let reach = match op.mask {
                Mask::Causal => u32::MAX,
                Mask::Window(n) => n,
            };
            self.range("window of the cache, shorter than that of the attention,", kept.0 as f32, reach <= kept.0)?;
        }
        Ok(Value { cols: self.times("attention columns", op.heads, value_dim)?, ..q })
    }

    fn elementwise(&self, op: &Elementwise) -> Result<Value, GraphError> {
        let (a, b) = match *op {
            Elementwise::Gated { gate, up, activation: _ } => (gate, up),
            Elementwise::Add { a, b } => (a, b),
        };
        let (a, b) = (self.floats(a, "first operand")?, self.floats(b, "second operand")?);
        self.rows("second operand", a.rows, b)?;
        self.equal("columns of the second operand", a.cols, b.cols)?;
        Ok(a)
    }

    fn route(&self, op: &Route) -> Result<Value, GraphError> {
        let logits = self.floats(op.logits, "logits")?;
        self.range("experts used", op.used as f32, op.used > 0 && op.used <= logits.cols)?;
        self.range("scale", op.scale, op.scale.is_finite())?;
        if let Some(bias) = op.bias {
            self.vector(bias, "selection biases", logits.cols)?;
        }
        if let Some(groups) = op.groups {
            let size = self.even("logits", logits.cols, groups.count)?;
            self.range("experts a group", size as f32, size >= 2)?;
            self.range("groups used", groups.used as f32, groups.used > 0 && groups.used <= groups.count)?;
            let kept = u64::from(groups.used) * u64::from(size);
            self.range("experts used", op.used as f32, u64::from(op.used) <= kept)?;
        }
        Ok(Value { element: Element::Choice, cols: op.used, ..logits })
    }

    fn experts(&self, op: &Experts) -> Result<Value, GraphError> {
        let (x, routing) = (self.floats(op.x, "x")?, self.choices(op.routing)?);
        let weight = &self.scope.weights[op.weight];
        self.rows("x", routing.rows, x)?;
        let experts = self.scope.nodes[op.routing.index()].op.routed().map_or(0, |logits| self.value(logits).cols);
        self.equal("matrices of the experts", experts, weight.count)?;
        self.part(op.part, weight.count)?;
        let slots = if op.slotted { routing.cols } else { 1 };
        self.product("columns of x", slots, weight.cols, x.cols)?;
        if let Some(bias) = op.bias {
            let bias = &self.scope.weights[bias];
            self.equal("bias rows", weight.count, bias.rows)?;
            self.equal("bias elements", weight.rows, bias.cols)?;
        }
        Ok(Value { cols: self.times("expert columns", routing.cols, weight.rows)?, ..x })
    }

    /// A part must name at least one expert of the stack.
    fn part(&self, part: Option<ExpertPart>, experts: u32) -> Result<(), GraphError> {
        match part {
            Some(part) if part.count == 0 => self.equal("experts of a part", 1, 0),
            Some(part) if part.range().end > experts => {
                self.equal("experts up to the end of a part", experts, part.range().end)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn combine(&self, op: &Combine) -> Result<Value, GraphError> {
        let (x, routing) = (self.floats(op.x, "x")?, self.choices(op.routing)?);
        self.rows("x", routing.rows, x)?;
        let out = Value { cols: self.even("x", x.cols, routing.cols)?, ..x };
        self.residual(op.shared, out)?;
        self.residual(op.residual, out)?;
        Ok(out)
    }

    fn value(&self, id: NodeId) -> Value {
        self.scope.values[id.index()]
    }

    fn floats(&self, id: NodeId, what: &'static str) -> Result<Value, GraphError> {
        self.element(id, what, Element::F32)
    }

    fn choices(&self, id: NodeId) -> Result<Value, GraphError> {
        self.element(id, "routing", Element::Choice)
    }

    fn element(&self, id: NodeId, what: &'static str, needed: Element) -> Result<Value, GraphError> {
        let value = self.value(id);
        if value.element != needed {
            return Err(GraphError::Element { node: self.name.into(), what, needed, found: value.element });
        }
        Ok(value)
    }

    fn residual(&self, residual: Option<NodeId>, out: Value) -> Result<(), GraphError> {
        let Some(id) = residual else { return Ok(()) };
        let value = self.floats(id, "residual")?;
        self.rows("residual", out.rows, value)?;
        self.equal("columns of the residual", out.cols, value.cols)
    }

    fn keys(&self, id: StateId) -> Result<&State, GraphError> {
        let keys = &self.scope.states[id];
        self.range("cache halves", 0.0, keys.half == CacheHalf::Keys)?;
        Ok(keys)
    }

    fn values(&self, keys: &State, id: StateId) -> Result<&State, GraphError> {
        let values = &self.scope.states[id];
        self.range("cache halves", 0.0, values.half == CacheHalf::Values)?;
        self.equal("KV heads of the values", keys.heads, values.heads)?;
        self.equal("cells of the values", keys.cells.0, values.cells.0)?;
        let window = |state: &State| state.window.map_or(0, |window| window.0);
        self.equal("window of the values", window(keys), window(values))?;
        Ok(values)
    }

    fn input(&self, id: InputId, needed: Input, what: &'static str) -> Result<(), GraphError> {
        if self.scope.inputs[id] != needed {
            return Err(GraphError::Rows { node: self.name.into(), what });
        }
        Ok(())
    }

    fn rows(&self, what: &'static str, needed: RowDim, value: Value) -> Result<(), GraphError> {
        if value.rows != needed {
            return Err(GraphError::Rows { node: self.name.into(), what });
        }
        Ok(())
    }

    fn vector(&self, id: WeightId, what: &'static str, needed: u32) -> Result<(), GraphError> {
        let weight = &self.scope.weights[id];
        self.equal(what, needed, weight.cols)?;
        self.equal("rows of a vector", 1, weight.rows)?;
        self.equal("matrices of a vector", 1, weight.count)
    }

    fn equal(&self, what: &'static str, needed: u32, found: u32) -> Result<(), GraphError> {
        if needed != found {
            let (needed, found) = (u64::from(needed), u64::from(found));
            return Err(GraphError::Mismatch { node: self.name.into(), what, needed, found });
        }
        Ok(())
    }

    fn product(&self, what: &'static str, a: u32, b: u32, found: u32) -> Result<(), GraphError> {
        let needed = u64::from(a) * u64::from(b);
        if needed != u64::from(found) {
            return Err(GraphError::Mismatch { node: self.name.into(), what, needed, found: u64::from(found) });
        }
        Ok(())
    }

    fn times(&self, what: &'static str, a: u32, b: u32) -> Result<u32, GraphError> {
        let fits = a.checked_mul(b).filter(|&n| n > 0);
        fits.ok_or_else(|| GraphError::Range { node: self.name.into(), what, value: f64::from(a) * f64::from(b) })
    }

    fn even(&self, what: &'static str, count: u32, unit: u32) -> Result<u32, GraphError> {
        if unit == 0 || !count.is_multiple_of(unit) || count == 0 {
            let (count, unit) = (u64::from(count), u64::from(unit));
            return Err(GraphError::Uneven { node: self.name.into(), what, count, unit });
        }
        Ok(count / unit)
    }

    fn range(&self, what: &'static str, value: f32, holds: bool) -> Result<(), GraphError> {
        if !holds {
            return Err(GraphError::Range { node: self.name.into(), what, value: f64::from(value) });
        }
        Ok(())
    }
}
