//! A model file and token ids → logits in double precision: decoded weights, plain loops, every product and sum in f64,
//! keys and values never rounded. The oracle for the runtime; it shares no code with the graph, the planner or kernels.
//!
//! Sources: RMS norm arXiv:1910.07467, rotation arXiv:2104.09864, YaRN arXiv:2309.00071, gated units arXiv:2002.05202,
//! and GELU arXiv:1606.08415, windows and norms behind blocks arXiv:2503.19786,
//! experts arXiv:2401.04088; latent attention and grouped experts arXiv:2405.04434 and arXiv:2412.19437, K and V of every
//! head written out; names of keys and tensors: the GGUF specification.

use std::collections::HashMap;

use loadmaster::gguf::{Gguf, Value};
use loadmaster::tensor::quant;

/// A matrix or vector; rows lie one after the other.
struct Tensor {
    cols: usize,
    data: Vec<f32>,
}

impl Tensor {
    fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.cols..(i + 1) * self.cols]
    }

    /// Products of `x` with the rows `from..from + count`.
    fn times(&self, x: &[f64], from: usize, count: usize) -> Vec<f64> {
        assert_eq!(x.len(), self.cols);
        let product = |i| self.row(i).iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
        (from..from + count).map(product).collect()
    }

    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }
}

/// What a forward pass reads.
pub struct F64Model {
    tensors: HashMap<String, Tensor>,
    interleaved: bool,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    eps: f64,
    scale: f64,
    /// Radians a position, one a rotated pair.
    radians: Vec<f64>,
    /// Layers of which a token attends to a window: its length, which they are, and their radians.
    windows: Option<(usize, Vec<bool>, Vec<f64>)>,
    /// Factor on embeddings.
    embedding_scale: f64,
    /// Whether gates go through GELU instead of SiLU.
    gelu: bool,
    /// Factor on rotated elements.
    magnitude: f64,
    experts_used: usize,
    expert_scale: f64,
    /// Whether weights of chosen experts are divided by their sum.
    expert_norm: bool,
    /// Whether router logits become probabilities each on its own.
    sigmoid: bool,
    /// Groups of experts, and groups used a token.
    groups: Option<(usize, usize)>,
    /// Elements that K and V are compressed to.
    rank: Option<usize>,
}

/// Keys and values of a layer so far, `tokens x heads x dim`.
#[derive(Default)]
struct Cache {
    keys: Vec<f64>,
    values: Vec<f64>,
}

impl F64Model {
    pub fn new(gguf: &Gguf) -> F64Model {
        let keys = Keys::new(gguf);
        let tensors = decoded(gguf);
        let (width, heads) = (keys.count("embedding_length").unwrap(), keys.count("attention.head_count").unwrap());
        let rank = keys.count("attention.kv_lora_rank");
        let head = |name: &str| keys.count(&format!("{name}_mla")).or(keys.count(name)).unwrap_or(width / heads);
        let (key_dim, value_dim) = (head("attention.key_length"), head("attention.value_length"));
        let rotary = keys.count("rope.dimension_count").unwrap_or(key_dim);
        let (radians, mut magnitude) = rotation(&keys, rotary, tensors.get("rope_freqs.weight"));
        let mut scale = keys.float("attention.scale").unwrap_or(1.0 / (key_dim as f64).sqrt());
        if let (Some(_), Some(factor)) = (rank, keys.float("rope.scaling.factor")) {
            // YaRN's magnitude is on the scores, where both sides of the dot would have it. Where a file does not say by how
            // much, llama.cpp applies the usual one in both places.
            let multiplier = keys.float("rope.scaling.yarn_log_multiplier");
            magnitude = if multiplier.is_some() { 1.0 } else { magnitude };
            scale *= (1.0 + multiplier.unwrap_or(0.1) * factor.ln()).powi(2);
        }
        let (gemma, layers) = (keys.arch == "gemma3", keys.count("block_count").unwrap());
        if gemma && layers == 62 {
            scale = 1.0 / (width as f64 / heads as f64).sqrt();
        }
        F64Model {
            interleaved: ["llama", "deepseek2"].contains(&keys.arch),
            layers,
            heads,
            kv_heads: if rank.is_some() { heads } else { keys.count("attention.head_count_kv").unwrap_or(heads) },
            key_dim,
            value_dim,
            eps: keys.float("attention.layer_norm_rms_epsilon").unwrap(),
            scale,
            radians,
            windows: windows(&keys, layers, rotary),
            embedding_scale: if gemma { (width as f64).sqrt() } else { 1.0 },
            gelu: gemma,
            magnitude,
            experts_used: keys.count("expert_used_count").unwrap_or(0),
            expert_scale: keys.float("expert_weights_scale").filter(|&s| s != 0.0).unwrap_or(1.0),
            expert_norm: keys.flag("expert_weights_norm").unwrap_or(keys.arch != "deepseek2"),
            sigmoid: keys.count("expert_gating_func") == Some(2),
            groups: keys.count("expert_group_count").zip(keys.count("expert_group_used_count")),
            rank,
            tensors,
        }
    }

    /// Logits of every token: `ids x vocabulary`.
    pub fn logits(&self, ids: &[u32]) -> Vec<f64> {
        let mut caches: Vec<Cache> = (0..self.layers).map(|_| Cache::default()).collect();
        let mut all = Vec::new();
        for (position, &id) in ids.iter().enumerate() {
            let mut x = wide(self.tensors["token_embd.weight"].row(id as usize));
            x.iter_mut().for_each(|x| *x *= self.embedding_scale);
            for (layer, cache) in caches.iter_mut().enumerate() {
                self.attention(layer, position, &mut x, cache);
                self.feed_forward(layer, &mut x);
            }
            let x = self.norm("output_norm", &x);
            let head = if self.tensors.contains_key("output.weight") { "output" } else { "token_embd" };
            let mut logits = self.linear(head, &x);
            if head == "token_embd" {
                self.add_bias("output", &mut logits);
            }
            all.extend(logits);
        }
        all
    }

    fn attention(&self, layer: usize, position: usize, x: &mut [f64], cache: &mut Cache) {
        let name = |part: &str| format!("blk.{layer}.attn_{part}");
        let normed = self.norm(&name("norm"), x);
        let q = match self.rank {
            Some(rank) => self.latent(&name, rank, position, &normed, cache),
            None => {
                cache.keys.extend(self.rotated(&name("k"), layer, position, &normed));
                cache.values.extend(self.linear(&name("v"), &normed));
                self.rotated(&name("q"), layer, position, &normed)
            }
        };
        let group = self.heads / self.kv_heads;
        let mut mixed = Vec::new();
        for (head, q) in q.chunks_exact(self.key_dim).enumerate() {
            let key = |cell: usize| &cache.keys[(cell * self.kv_heads + head / group) * self.key_dim..][..self.key_dim];
            let value = |cell: usize| &cache.values[(cell * self.kv_heads + head / group) * self.value_dim..];
            let first = self.window(layer).map_or(0, |(length, _)| (position + 1).saturating_sub(length));
            let weights = softmax(&(first..=position).map(|cell| self.scale * dot(q, key(cell))).collect::<Vec<_>>());
            let element = |i: usize| (first..).zip(&weights).map(|(cell, w)| w * value(cell)[i]).sum::<f64>();
            mixed.extend((0..self.value_dim).map(element));
        }
        self.add_block(x, self.linear(&name("output"), &mixed), &format!("blk.{layer}.post_attention_norm"));
    }

    /// Length and radians of a layer's window, if it has one.
    fn window(&self, layer: usize) -> Option<(usize, &[f64])> {
        let (length, layers, radians) = self.windows.as_ref()?;
        layers[layer].then_some((*length, radians))
    }

    /// Adds what a block makes, normalised where the model has a norm for that.
    fn add_block(&self, x: &mut [f64], block: Vec<f64>, norm: &str) {
        let normed = self.tensors.contains_key(&format!("{norm}.weight"));
        add(x, &if normed { self.norm(norm, &block) } else { block }, 1.0);
    }

    /// Product, norm of the heads where the model has one, rotation.
    fn rotated(&self, name: &str, layer: usize, position: usize, x: &[f64]) -> Vec<f64> {
        let mut out = self.linear(name, x);
        for head in out.chunks_exact_mut(self.key_dim) {
            if self.tensors.contains_key(&format!("{name}_norm.weight")) {
                let normed = self.norm(&format!("{name}_norm"), head);
                head.copy_from_slice(&normed);
            }
            self.turn(self.window(layer).map_or(&self.radians, |(_, radians)| radians), position, head);
        }
        out
    }

    fn turn(&self, radians: &[f64], position: usize, head: &mut [f64]) {
        let pairs = radians.len();
        for (i, radians) in radians.iter().enumerate() {
            let (a, b) = if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
            let (sin, cos) = (radians * position as f64).sin_cos();
            let (x, y) = (head[a], head[b]);
            head[a] = (x * cos - y * sin) * self.magnitude;
            head[b] = (x * sin + y * cos) * self.magnitude;
        }
    }

    /// q of all heads; K and V of all heads into the cache, from what the token is compressed to.
    fn latent(
        &self,
        name: &impl Fn(&str) -> String,
        rank: usize,
        position: usize,
        x: &[f64],
        cache: &mut Cache,
    ) -> Vec<f64> {
        let plain = self.key_dim - 2 * self.radians.len();
        let mut q = match self.tensors.contains_key(&format!("{}.weight", name("q_a"))) {
            true => self.linear(&name("q_b"), &self.norm(&name("q_a_norm"), &self.linear(&name("q_a"), x))),
            false => self.linear(&name("q"), x),
        };
        q.chunks_exact_mut(self.key_dim).for_each(|head| self.turn(&self.radians, position, &mut head[plain..]));
        let mut row = self.linear(&name("kv_a_mqa"), x);
        self.turn(&self.radians, position, &mut row[rank..]);
        let compressed = self.norm(&name("kv_a_norm"), &row[..rank]);
        let (k_b, v_b) =
            (&self.tensors[&format!("{}.weight", name("k_b"))], &self.tensors[&format!("{}.weight", name("v_b"))]);
        for head in 0..self.heads {
            let element =
                |i: usize| (0..rank).map(|r| f64::from(k_b.row(head * rank + r)[i]) * compressed[r]).sum::<f64>();
            cache.keys.extend((0..plain).map(element));
            cache.keys.extend_from_slice(&row[rank..]);
            cache.values.extend(v_b.times(&compressed, head * self.value_dim, self.value_dim));
        }
        q
    }

    fn feed_forward(&self, layer: usize, x: &mut [f64]) {
        let name = |part: &str| format!("blk.{layer}.ffn_{part}");
        let normed = self.norm(&name("norm"), x);
        if !self.tensors.contains_key(&name("gate_inp.weight")) {
            let hidden = self.gated(&self.linear(&name("gate"), &normed), &self.linear(&name("up"), &normed));
            return self.add_block(x, self.linear(&name("down"), &hidden), &format!("blk.{layer}.post_ffw_norm"));
        }
        let logits = self.linear(&name("gate_inp"), &normed);
        let weights = match self.sigmoid {
            true => logits.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
            false => softmax(&logits),
        };
        let best = self.chosen(layer, &weights);
        let total: f64 = if self.expert_norm { best.iter().map(|&e| weights[e]).sum() } else { 1.0 };
        for &e in &best {
            let expert = |part: &str, x: &[f64]| {
                let tensor = &self.tensors[&name(&format!("{part}_exps.weight"))];
                let rows = tensor.rows() / weights.len();
                tensor.times(x, e * rows, rows)
            };
            let hidden = self.gated(&expert("gate", &normed), &expert("up", &normed));
            add(x, &expert("down", &hidden), weights[e] / total * self.expert_scale);
        }
        if self.tensors.contains_key(&name("gate_shexp.weight")) {
            let hidden =
                self.gated(&self.linear(&name("gate_shexp"), &normed), &self.linear(&name("up_shexp"), &normed));
            add(x, &self.linear(&name("down_shexp"), &hidden), 1.0);
        }
    }

    /// The experts of the best scores, of the best groups where there are groups.
    fn chosen(&self, layer: usize, weights: &[f64]) -> Vec<usize> {
        let mut scores = weights.to_vec();
        if let Some(bias) = self.tensors.get(&format!("blk.{layer}.exp_probs_b.bias")) {
            add(&mut scores, &wide(&bias.data), 1.0);
        }
        let order = |scores: &[f64]| {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            order
        };
        let mut allowed = vec![true; scores.len()];
        if let Some((count, used)) = self.groups {
            let size = scores.len() / count;
            let two = |group: &[f64]| order(group).iter().take(2).map(|&i| group[i]).sum::<f64>();
            let worths: Vec<f64> = scores.chunks_exact(size).map(two).collect();
            let kept = &order(&worths)[..used];
            allowed = (0..scores.len()).map(|e| kept.contains(&(e / size))).collect();
        }
        order(&scores).into_iter().filter(|&e| allowed[e]).take(self.experts_used).collect()
    }

    fn gated(&self, gate: &[f64], up: &[f64]) -> Vec<f64> {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let gelu = |x: f64| 0.5 * x * (1.0 + (std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        gate.iter().zip(up).map(|(&g, u)| if self.gelu { gelu(g) * u } else { silu(g) * u }).collect()
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")];
        let mut out = weight.times(x, 0, weight.rows());
        self.add_bias(name, &mut out);
        out
    }

    fn add_bias(&self, name: &str, out: &mut [f64]) {
        if let Some(bias) = self.tensors.get(&format!("{name}.bias")) {
            add(out, &wide(&bias.data), 1.0);
        }
    }

    fn norm(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let weight = &self.tensors[&format!("{name}.weight")].data;
        assert_eq!(weight.len(), x.len());
        let factor = 1.0 / (dot(x, x) / x.len() as f64 + self.eps).sqrt();
        x.iter().zip(weight).map(|(x, &w)| x * factor * f64::from(w)).collect()
    }
}

/// Metadata of the file's architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    fn new(gguf: &'a Gguf) -> Keys<'a> {
        Keys { gguf, arch: gguf.metadata().str("general.architecture").unwrap().unwrap() }
    }

    /// A count; of one a layer, the first.
    fn count(&self, name: &str) -> Option<usize> {
        let key = format!("{}.{name}", self.arch);
        if matches!(self.gguf.metadata().get(&key), Some(Value::Array(_))) {
            return self.gguf.metadata().u32s(&key).unwrap().map(|v| v[0] as usize);
        }
        self.gguf.metadata().u32(&key).unwrap().map(|v| v as usize)
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.gguf.metadata().bool(&format!("{}.{name}", self.arch)).unwrap()
    }

    fn float(&self, name: &str) -> Option<f64> {
        self.gguf.metadata().f32(&format!("{}.{name}", self.arch)).unwrap().map(f64::from)
    }
}

/// Radians a position of every pair, and the factor on what is rotated.
fn rotation(keys: &Keys<'_>, rotary: usize, factors: Option<&Tensor>) -> (Vec<f64>, f64) {
    let base = keys.float("rope.freq_base").unwrap_or(1e4);
    let kind = keys.gguf.metadata().str(&format!("{}.rope.scaling.type", keys.arch)).unwrap().unwrap_or("linear");
    let stretch = keys.float("rope.scaling.factor").or(keys.float("rope.scale_linear")).filter(|&f| f != 0.0);
    let stretch = if kind == "none" { 1.0 } else { stretch.unwrap_or(1.0) };
    let trained = keys.count("rope.scaling.original_context_length").or(keys.count("context_length")).unwrap_or(2048);
    // The pair that turns so many times over the trained context.
    let pair = |turns: f64| rotary as f64 * (trained as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln());
    let low = pair(keys.float("rope.scaling.yarn_beta_fast").unwrap_or(32.0)).floor().max(0.0);
    let high = pair(keys.float("rope.scaling.yarn_beta_slow").unwrap_or(1.0)).ceil().min(rotary as f64 - 1.0);
    let radians = |i: usize| {
        let plain = base.powf(-2.0 * i as f64 / rotary as f64) / factors.map_or(1.0, |f| f64::from(f.data[i]));
        let keep = match kind {
            "yarn" => 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0),
            _ => 0.0,
        };
        plain * keep + plain / stretch * (1.0 - keep)
    };
    let magnitude = if kind == "yarn" { 1.0 + 0.1 * stretch.ln() } else { 1.0 };
    let own = keys.float("rope.scaling.attn_factor").unwrap_or(1.0);
    ((0..rotary / 2).map(radians).collect(), magnitude * own)
}

/// Of which layers a token attends to a window: its length, which they are, and radians a position of every pair there.
fn windows(keys: &Keys<'_>, layers: usize, rotary: usize) -> Option<(usize, Vec<bool>, Vec<f64>)> {
    let length = keys.count("attention.sliding_window")?;
    let period = keys.count("attention.sliding_window_pattern").unwrap_or(6);
    let base = keys.float("rope.freq_base_swa").unwrap_or(1e4);
    let radians = (0..rotary / 2).map(|i| base.powf(-2.0 * i as f64 / rotary as f64)).collect();
    Some((length, (0..layers).map(|layer| (layer + 1) % period != 0).collect(), radians))
}

fn decoded(gguf: &Gguf) -> HashMap<String, Tensor> {
    let mut tensors = HashMap::new();
    for info in gguf.tensors() {
        let dims = info.shape.dims();
        let mut data = vec![0.0; dims.iter().product::<u64>() as usize];
        quant::decode(info.dtype, gguf.bytes(info), &mut data).unwrap();
        tensors.insert(info.name.clone(), Tensor { cols: dims[0] as usize, data });
    }
    tensors
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = x.iter().map(|x| (x - most).exp()).sum();
    x.iter().map(|x| (x - most).exp() / total).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64], factor: f64) {
    assert_eq!(x.len(), y.len());
    for (x, y) in x.iter_mut().zip(y) {
        *x += y * factor;
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}
