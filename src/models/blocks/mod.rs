//! The blocks that architectures share: embedding, attention, gated unit, experts, head.
//! Each takes the residual stream and returns it; a tensor is looked up where it is used, and its shape checked there.

mod attention;
mod feed_forward;
mod latent;

use std::collections::{HashMap, HashSet};

use super::{CacheSpec, Experts, Hparams, Inputs, ModelError, TensorTable};
use crate::graph::ops::{Elementwise, Embed, MatMul, Norm, Rows, Select};
use crate::graph::{Graph, GraphBuilder, NodeId, Op, Weight, WeightId};

pub(super) use attention::AttentionStyle;
pub(super) use feed_forward::HiddenStyle;

/// Builds one graph; knows the current layer.
pub(super) struct Blocks<'a> {
    builder: GraphBuilder,
    inputs: Inputs,
    hparams: &'a Hparams,
    tensors: &'a TensorTable,
    cache: CacheSpec,
    layer: u32,
    weights: HashMap<String, WeightId>,
}

impl<'a> Blocks<'a> {
    pub(super) fn new(
        builder: GraphBuilder,
        inputs: Inputs,
        hparams: &'a Hparams,
        tensors: &'a TensorTable,
        cache: CacheSpec,
    ) -> Blocks<'a> {
        Blocks { builder, inputs, hparams, tensors, cache, layer: 0, weights: HashMap::new() }
    }

    pub(super) fn hparams(&self) -> &'a Hparams {
        self.hparams
    }

    pub(super) fn required_experts(&self) -> Result<Experts, ModelError> {
        let missing = || ModelError::MissingKey { file: self.tensors.file().into(), key: "expert_count".into() };
        self.hparams.experts.ok_or_else(missing)
    }

    pub(super) fn set_layer(&mut self, layer: u32) {
        self.layer = layer;
        self.builder.set_layer(Some(layer));
    }

    /// Token ids → residual stream.
    pub(super) fn embedding(&mut self) -> Result<NodeId, ModelError> {
        let weight = self.matrix("token_embd.weight", self.hparams.width, self.hparams.vocab)?;
        self.node(
            "token_embd",
            Op::Rows(Rows::Embed(Embed { weight, ids: self.inputs.ids, scale: self.hparams.embedding_scale })),
        )
    }

    /// Residual stream → logits of the output rows.
    pub(super) fn head(&mut self, x: NodeId) -> Result<NodeId, ModelError> {
        self.builder.set_layer(None);
        let rows = Select { x, rows: self.inputs.output_rows };
        let x = self.node("output_rows", Op::Rows(Rows::Select(rows)))?;
        let x = self.norm("output_norm", "output_norm.weight", x, self.hparams.width, 1)?;
        let (width, vocab) = (self.hparams.width, self.hparams.vocab);
        let tied = !self.has("output.weight");
        let weight = self.matrix(if tied { "token_embd.weight" } else { "output.weight" }, width, vocab)?;
        let bias = self.optional_vector("output.bias", vocab)?;
        self.node("output", Op::MatMul(MatMul { x, weight, bias, residual: None }))
    }

    /// The finished graph and the names of the tensors it uses.
    pub(super) fn finish(self, logits: NodeId) -> Result<(Graph, HashSet<String>), ModelError> {
        let used = self.weights.into_keys().collect();
        Ok((self.builder.finish(logits)?, used))
    }

    /// `blk.N.<name>` of the current layer.
    fn in_layer(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.layer)
    }

    fn node(&mut self, name: impl Into<String>, op: Op) -> Result<NodeId, ModelError> {
        Ok(self.builder.node(name, op)?)
    }

    fn norm(&mut self, node: &str, weight: &str, x: NodeId, slice: u32, heads: u32) -> Result<NodeId, ModelError> {
        let weight = self.vector(weight, slice)?;
        self.node(node, Op::Norm(Norm { x, weight, eps: self.hparams.norm_eps, heads, carried: 0 }))
    }

    /// A product with `blk.N.<name>.weight` and, where the file has it, its bias.
    fn matmul(
        &mut self,
        name: &str,
        x: NodeId,
        (cols, rows): (u32, u32),
        residual: Option<NodeId>,
    ) -> Result<NodeId, ModelError> {
        let name = self.in_layer(name);
        let weight = self.matrix(&format!("{name}.weight"), cols, rows)?;
        let bias = self.optional_vector(&format!("{name}.bias"), rows)?;
        self.node(name, Op::MatMul(MatMul { x, weight, bias, residual }))
    }

    /// The stream plus a product with a block's last weight, of `cols` columns: normalised first where there is a norm for it.
    fn added(
        &mut self,
        stream: NodeId,
        name: &str,
        x: NodeId,
        cols: u32,
        post_norm: Option<&str>,
    ) -> Result<NodeId, ModelError> {
        let width = self.hparams.width;
        let Some(norm) = post_norm else { return self.matmul(name, x, (cols, width), Some(stream)) };
        let product = self.matmul(name, x, (cols, width), None)?;
        let norm = self.in_layer(norm);
        let normed = self.norm(&norm, &format!("{norm}.weight"), product, width, 1)?;
        let add = Elementwise::Add { a: stream, b: normed };
        self.node(self.in_layer(&format!("{name}_added")), Op::Elementwise(add))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    fn vector(&mut self, name: &str, elements: u32) -> Result<WeightId, ModelError> {
        self.weight(name, &[u64::from(elements)])
    }

    fn optional_vector(&mut self, name: &str, elements: u32) -> Result<Option<WeightId>, ModelError> {
        if self.has(name) { self.vector(name, elements).map(Some) } else { Ok(None) }
    }

    fn matrix(&mut self, name: &str, cols: u32, rows: u32) -> Result<WeightId, ModelError> {
        self.weight(name, &[u64::from(cols), u64::from(rows)])
    }

    fn stack(&mut self, name: &str, cols: u32, rows: u32, count: u32) -> Result<WeightId, ModelError> {
        self.weight(name, &[u64::from(cols), u64::from(rows), u64::from(count)])
    }

    /// The weight of a tensor; its dimensions must be `needed`, trailing ones aside.
    fn weight(&mut self, name: &str, needed: &[u64]) -> Result<WeightId, ModelError> {
        if let Some(&id) = self.weights.get(name) {
            return Ok(id);
        }
        let file = || self.tensors.file().to_owned();
        let Some((dtype, dims)) = self.tensors.get(name) else {
            return Err(self.missing(name, needed));
        };
        let padded = |dims: &[u64]| [0, 1, 2, 3].map(|i| dims.get(i).copied().unwrap_or(1));
        if padded(dims) != padded(needed) {
            let (needed, found) = (needed.to_vec(), dims.to_vec());
            return Err(ModelError::TensorShape { file: file(), name: name.into(), needed, found });
        }
        let [cols, rows, count, _] = padded(needed).map(|n| n as u32);
        let id = self.builder.weight(Weight { name: name.into(), dtype, count, rows, cols, part: None })?;
        self.weights.insert(name.into(), id);
        Ok(id)
    }

    /// Names what the file has instead of the tensor, if it is a form that is not read.
    fn missing(&self, name: &str, needed: &[u64]) -> ModelError {
        let (file, name) = (self.tensors.file().to_owned(), name.to_owned());
        let part = name.strip_prefix(&self.in_layer(""));
        let others = OTHER_FORMS.iter().filter(|(lacking, ..)| Some(*lacking) == part);
        let mut others = others.map(|(_, found, why)| (self.in_layer(found), *why));
        match others.find(|(found, _)| self.has(found)) {
            Some((found, why)) => ModelError::OtherForm { file, name, found, why },
            None => ModelError::MissingTensor { file, name, needed: needed.to_vec() },
        }
    }
}

/// Forms of a layer's tensors that files have and this program does not read: the tensor that is lacking, the one that
/// is there, and why that does not serve.
const OTHER_FORMS: [(&str, &str, &str); 7] = [
    ("attn_q.weight", "attn_qkv.weight", "q, k and v in one tensor are not read"),
    ("ffn_gate.weight", "ffn_gate_inp.weight", "metadata expert_count does not say that there are experts"),
    ("ffn_gate.weight", "ffn_up.weight", "a hidden layer without a gate is not read"),
    ("ffn_gate_inp.weight", "ffn_gate.weight", "a dense layer among expert layers is not read"),
    ("ffn_gate_exps.weight", "ffn_gate.0.weight", "one tensor an expert is not read; convert the model again"),
    ("ffn_gate_exps.weight", "ffn_gate_up_exps.weight", "gate and up products in one tensor are not read"),
    ("ffn_gate_exps.weight", "ffn_up_exps.weight", "experts without a gate are not read"),
];
