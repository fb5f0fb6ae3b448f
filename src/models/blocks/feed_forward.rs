//! Pre-norm feed-forward blocks, dense or with experts; return the residual stream with their output added.

use super::{Blocks, ModelError};
use crate::graph::ops::{self, Activation, Combine, Elementwise, Gating, Moe, Route};
use crate::graph::{NodeId, Op};
use crate::models::Experts;

/// The three products of an expert: tensor name, columns and rows.
struct Product {
    name: &'static str,
    cols: u32,
    rows: u32,
    slotted: bool,
}

impl Blocks<'_> {
    /// A gated unit: `down(silu(gate x) * up x)`.
    pub(in crate::models) fn gated_layer(&mut self, x: NodeId) -> Result<NodeId, ModelError> {
        let (width, hidden) = (self.hparams.width, self.hparams.feed_forward);
        let normed = self.norm(&self.in_layer("ffn_norm"), &self.in_layer("ffn_norm.weight"), x, width, 1)?;
        let gate = self.matmul("ffn_gate", normed, (width, hidden), None)?;
        let up = self.matmul("ffn_up", normed, (width, hidden), None)?;
        let gated = self.gated(gate, up)?;
        self.matmul("ffn_down", gated, (hidden, width), Some(x))
    }

    /// The best experts of each token, each a gated unit, summed by their softmax weights.
    pub(in crate::models) fn expert_layer(&mut self, x: NodeId, experts: Experts) -> Result<NodeId, ModelError> {
        let Experts { count, used, feed_forward: hidden, scale } = experts;
        let width = self.hparams.width;
        let normed = self.norm(&self.in_layer("ffn_norm"), &self.in_layer("ffn_norm.weight"), x, width, 1)?;
        let logits = self.matmul("ffn_gate_inp", normed, (width, count), None)?;
        let route = Route { logits, used, gating: Gating::Softmax, normalize: true, scale };
        let routing = self.node(self.in_layer("ffn_route"), Op::Moe(Moe::Route(route)))?;
        let product = |name, cols, rows, slotted| Product { name, cols, rows, slotted };
        let gate = self.experts(product("ffn_gate_exps", width, hidden, false), normed, routing, count)?;
        let up = self.experts(product("ffn_up_exps", width, hidden, false), normed, routing, count)?;
        let gated = self.gated(gate, up)?;
        let down = self.experts(product("ffn_down_exps", hidden, width, true), gated, routing, count)?;
        let combine = Combine { x: down, routing, residual: Some(x) };
        self.node(self.in_layer("ffn_combine"), Op::Moe(Moe::Combine(combine)))
    }

    fn gated(&mut self, gate: NodeId, up: NodeId) -> Result<NodeId, ModelError> {
        let op = Elementwise::Gated { gate, up, activation: Activation::Silu };
        self.node(self.in_layer("ffn_gated"), Op::Elementwise(op))
    }

    fn experts(&mut self, product: Product, x: NodeId, routing: NodeId, count: u32) -> Result<NodeId, ModelError> {
        let Product { name, cols, rows, slotted } = product;
        let name = self.in_layer(name);
        let weight = self.stack(&format!("{name}.weight"), cols, rows, count)?;
        let bias = match self.has(&format!("{name}.bias")) {
            true => Some(self.matrix(&format!("{name}.bias"), rows, count)?),
            false => None,
        };
        self.node(name, Op::Moe(Moe::Experts(ops::Experts { x, routing, weight, bias, slotted })))
    }
}
