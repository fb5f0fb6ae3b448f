//! A shape → the list of tensors that llama.cpp and this program expect of it, with types and kinds of filling.

use super::{Fill, LatentShape, ModelShape, SynthError};
use crate::gguf::Writer;
use crate::tensor::{DType, Shape};

/// A tensor that is of another type than asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Its name.
    pub tensor: String,
    /// The length of its rows.
    pub columns: u64,
    /// Its type.
    pub dtype: DType,
}

/// The tensors so far.
pub(super) struct List {
    pub writer: Writer,
    pub dtype: DType,
    pub fills: Vec<Fill>,
    pub fallbacks: Vec<Fallback>,
}

impl List {
    /// All tensors of a model, in the order in which converters write them.
    pub fn add_all(&mut self, shape: &ModelShape) -> Result<(), SynthError> {
        let (width, vocab) = (shape.width, shape.vocab);
        self.matrix("token_embd.weight", &[width, vocab])?;
        if shape.rope_factors {
            self.vector("rope_freqs.weight", shape.head_dim / 2, Fill::RopeFactors)?;
        }
        for layer in 0..shape.layers {
            self.attention(shape, layer)?;
            self.feed_forward(shape, layer)?;
        }
        self.vector("output_norm.weight", width, Fill::Norm)?;
        if !shape.tied {
            self.matrix("output.weight", &[width, vocab])?;
        }
        if shape.output_bias {
            self.vector("output.bias", vocab, Fill::Bias)?;
        }
        Ok(())
    }

    fn attention(&mut self, shape: &ModelShape, layer: u32) -> Result<(), SynthError> {
        if let Some(latent) = shape.latent {
            return self.latent_attention(shape, latent, layer);
        }
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        self.vector(&format!("blk.{layer}.attn_norm.weight"), shape.width, Fill::Norm)?;
        for (half, rows) in [("q", q), ("k", kv), ("v", kv)] {
            self.matrix(&format!("blk.{layer}.attn_{half}.weight"), &[shape.width, rows])?;
            if shape.has_attention_biases() {
                self.vector(&format!("blk.{layer}.attn_{half}.bias"), rows, Fill::Bias)?;
            }
            if shape.has_head_norms() && half != "v" {
                self.vector(&format!("blk.{layer}.attn_{half}_norm.weight"), shape.head_dim, Fill::Norm)?;
            }
        }
        self.matrix(&format!("blk.{layer}.attn_output.weight"), &[q, shape.width])?;
        self.post_norm(shape, layer, "post_attention_norm")
    }

    /// The norm of what a block adds to the stream, in models that have it.
    fn post_norm(&mut self, shape: &ModelShape, layer: u32, name: &str) -> Result<(), SynthError> {
        if !shape.is_gemma() {
            return Ok(());
        }
        self.vector(&format!("blk.{layer}.{name}.weight"), shape.width, Fill::Norm)
    }

    fn latent_attention(&mut self, shape: &ModelShape, latent: LatentShape, layer: u32) -> Result<(), SynthError> {
        let name = |part: &str| format!("blk.{layer}.attn_{part}.weight");
        let LatentShape { q_rank, rank, rotary, value_dim, .. } = latent;
        let (width, heads, q) = (shape.width, shape.heads, shape.heads * shape.head_dim);
        self.vector(&name("norm"), width, Fill::Norm)?;
        if q_rank > 0 {
            self.matrix(&name("q_a"), &[width, q_rank])?;
            self.vector(&name("q_a_norm"), q_rank, Fill::Norm)?;
            self.matrix(&name("q_b"), &[q_rank, q])?;
        } else {
            self.matrix(&name("q"), &[width, q])?;
        }
        self.matrix(&name("kv_a_mqa"), &[width, rank + rotary])?;
        self.vector(&name("kv_a_norm"), rank, Fill::Norm)?;
        self.matrix(&name("k_b"), &[shape.head_dim - rotary, rank, heads])?;
        self.matrix(&name("v_b"), &[rank, value_dim, heads])?;
        self.matrix(&name("output"), &[heads * value_dim, width])
    }

    fn feed_forward(&mut self, shape: &ModelShape, layer: u32) -> Result<(), SynthError> {
        let width = shape.width;
        self.vector(&format!("blk.{layer}.ffn_norm.weight"), width, Fill::Norm)?;
        let dense = shape.latent.is_some_and(|latent| layer < latent.dense_layers);
        let Some(experts) = shape.experts.filter(|_| !dense) else {
            let hidden = shape.feed_forward;
            self.matrix(&format!("blk.{layer}.ffn_gate.weight"), &[width, hidden])?;
            self.matrix(&format!("blk.{layer}.ffn_up.weight"), &[width, hidden])?;
            self.matrix(&format!("blk.{layer}.ffn_down.weight"), &[hidden, width])?;
            return self.post_norm(shape, layer, "post_ffw_norm");
        };
        let (count, hidden) = (experts.count, experts.feed_forward);
        let router = Shape::new(&[width.into(), count.into()])?;
        self.add(&format!("blk.{layer}.ffn_gate_inp.weight"), DType::F32, router, matrix_fill(width.into()))?;
        if shape.latent.is_some_and(|latent| latent.sigmoid) {
            self.vector(&format!("blk.{layer}.exp_probs_b.bias"), count, Fill::Bias)?;
        }
        let shared = shape.latent.map_or(0, |latent| latent.shared) * hidden;
        if shared > 0 {
            self.matrix(&format!("blk.{layer}.ffn_gate_shexp.weight"), &[width, shared])?;
            self.matrix(&format!("blk.{layer}.ffn_up_shexp.weight"), &[width, shared])?;
            self.matrix(&format!("blk.{layer}.ffn_down_shexp.weight"), &[shared, width])?;
        }
        self.matrix(&format!("blk.{layer}.ffn_gate_exps.weight"), &[width, hidden, count])?;
        self.matrix(&format!("blk.{layer}.ffn_up_exps.weight"), &[width, hidden, count])?;
        self.matrix(&format!("blk.{layer}.ffn_down_exps.weight"), &[hidden, width, count])
    }

    /// A matrix of the wanted type, or of the next that its rows are whole blocks of: q8_0, then f16.
    fn matrix(&mut self, name: &str, dims: &[u32]) -> Result<(), SynthError> {
        let dims: Vec<u64> = dims.iter().map(|&d| d.into()).collect();
        let shape = Shape::new(&dims)?;
        let columns = shape.row_len();
        let fits = |t: &DType| t.row_bytes(columns).is_some();
        let dtype = [self.dtype, DType::Q8_0].into_iter().find(fits).unwrap_or(DType::F16);
        if dtype != self.dtype {
            self.fallbacks.push(Fallback { tensor: name.to_owned(), columns, dtype });
        }
        self.add(name, dtype, shape, matrix_fill(columns))
    }

    fn vector(&mut self, name: &str, elements: u32, fill: Fill) -> Result<(), SynthError> {
        self.add(name, DType::F32, Shape::new(&[elements.into()])?, fill)
    }

    fn add(&mut self, name: &str, dtype: DType, shape: Shape, fill: Fill) -> Result<(), SynthError> {
        self.writer.add_tensor(name, dtype, shape)?;
        self.fills.push(fill);
        Ok(())
    }
}

/// Products of normalised rows then have a standard deviation of about 1.
fn matrix_fill(columns: u64) -> Fill {
    Fill::Matrix(1.0 / (columns as f32).sqrt())
}
