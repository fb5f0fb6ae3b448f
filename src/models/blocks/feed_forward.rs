//! Pre-norm feed-forward blocks, dense or with experts; return the residual stream with their output added.

use super::{Blocks, ModelError};
use crate::graph::ops::{self, Activation, Combine, Elementwise, Moe, Route};
use crate::graph::{NodeId, Op};
use crate::models::Experts;

/// What differs between architectures.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct HiddenStyle {
    /// The non-linearity of the gate.
    pub activation: Activation,
    /// The norm of what is added to the stream, if it has one.
    pub post_norm: Option<&'static str>,
}

impl HiddenStyle {
    /// That of most.
    pub const USUAL: HiddenStyle = HiddenStyle { activation: Activation::Silu, post_norm: None };
}

/// The three products of an expert: tensor name, columns and rows.
struct Product {
    name: &'static str,
    cols: u32,
    rows: u32,
    slotted: bool,
}

impl Blocks<'_> {
    /// A gated unit: `down(activation(gate x) * up x)`.
    pub(in crate::models) fn gated_layer(&mut self, x: NodeId, style: HiddenStyle) -> Result<NodeId, ModelError> {
        let (width, hidden) = (self.hparams.width, self.hparams.feed_forward);
        let normed = self.norm(&self.in_layer("ffn_norm"), &self.in_layer("ffn_norm.weight"), x, width, 1)?;
        let gate = self.matmul("ffn_gate", normed, (width, hidden), None)?;
        let up = self.matmul("ffn_up", normed, (width, hidden), None)?;
        let gated = self.gated("ffn_gated", gate, up, style.activation)?;
        self.added(x, "ffn_down", gated, hidden, style.post_norm)
    }

    /// The best experts of each token, each a gated unit, summed by their weights; plus the experts that all tokens share,
    /// which are one wide gated unit.
    pub(in crate::models) fn expert_layer(&mut self, x: NodeId, experts: Experts) -> Result<NodeId, ModelError> {
        let Experts { count, used, feed_forward: hidden, scale, gating, normalize, groups, shared } = experts;
        let width = self.hparams.width;
        let normed = self.norm(&self.in_layer("ffn_norm"), &self.in_layer("ffn_norm.weight"), x, width, 1)?;
        let logits = self.matmul("ffn_gate_inp", normed, (width, count), None)?;
        let bias = self.optional_vector(&self.in_layer("exp_probs_b.bias"), count)?;
        let route = Route { logits, used, gating, bias, groups, normalize, scale };
        let routing = self.node(self.in_layer("ffn_route"), Op::Moe(Moe::Route(route)))?;
        let product = |name, cols, rows, slotted| Product { name, cols, rows, slotted };
        let gate = self.experts(product("ffn_gate_exps", width, hidden, false), normed, routing, count)?;
        let up = self.experts(product("ffn_up_exps", width, hidden, false), normed, routing, count)?;
        let shared = self.shared_up(normed, shared * hidden)?;
        let activation = HiddenStyle::USUAL.activation;
        let gated = self.gated("ffn_gated", gate, up, activation)?;
        let shared = shared.map(|(gate, up)| self.gated("ffn_gated_shexp", gate, up, activation)).transpose()?;
        let down = self.experts(product("ffn_down_exps", hidden, width, true), gated, routing, count)?;
        let shared_hidden = experts.shared * hidden;
        let shared = shared.map(|x| self.matmul("ffn_down_shexp", x, (shared_hidden, width), None)).transpose()?;
        let combine = Combine { x: down, routing, shared, residual: Some(x), part: None };
        self.node(self.in_layer("ffn_combine"), Op::Moe(Moe::Combine(combine)))
    }

    /// Gate and up of the shared experts, if there are any.
    fn shared_up(&mut self, x: NodeId, hidden: u32) -> Result<Option<(NodeId, NodeId)>, ModelError> {
        if hidden == 0 {
            return Ok(None);
        }
        let width = self.hparams.width;
        let gate = self.matmul("ffn_gate_shexp", x, (width, hidden), None)?;
        Ok(Some((gate, self.matmul("ffn_up_shexp", x, (width, hidden), None)?)))
    }

    fn gated(&mut self, name: &str, gate: NodeId, up: NodeId, activation: Activation) -> Result<NodeId, ModelError> {
        let op = Elementwise::Gated { gate, up, activation };
        self.node(self.in_layer(name), Op::Elementwise(op))
    }

    fn experts(&mut self, product: Product, x: NodeId, routing: NodeId, count: u32) -> Result<NodeId, ModelError> {
        let Product { name, cols, rows, slotted } = product;
        let name = self.in_layer(name);
        let weight = self.stack(&format!("{name}.weight"), cols, rows, count)?;
        let bias = match self.has(&format!("{name}.bias")) {
            true => Some(self.matrix(&format!("{name}.bias"), rows, count)?),
            false => None,
        };
        self.node(name, Op::Moe(Moe::Experts(ops::Experts { x, routing, weight, bias, slotted, part: None })))
    }
}
