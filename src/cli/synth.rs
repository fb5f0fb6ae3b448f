//! `synth`: a shape → a model file of random weights.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args as ClapArgs;

use super::progress::Bar;
use super::{Usage, note};
use crate::synth::{ExpertShape, ModelShape, RopeScaling, Synth, SynthError, named, names};
use crate::tensor::DType;

/// Make a model of random weights, to measure speed at real sizes without a download
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Named shape, or a JSON file with one; without it, --arch and dimensions
    #[arg(value_name = "SHAPE", required_unless_present_any = ["arch", "list"])]
    shape: Option<String>,
    /// Type of all matrices, such as q4_0, q8_0, q4_k, f16; norms, biases and routers are f32
    #[arg(long = "type", value_name = "TYPE", default_value = "q8_0", value_parser = dtype)]
    dtype: DType,
    /// File to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    out: Option<PathBuf>,
    /// Start of the random numbers; the same seed gives the same bytes
    #[arg(short, long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// List the named shapes
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    dims: Dims,
}

/// Dimensions that replace those of the shape, or make one.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Dimensions, to change those of SHAPE or to do without it")]
struct Dims {
    /// llama, qwen2, qwen3, qwen3moe or gemma3; deepseek2, and windows of gemma3, need a shape file or a name
    #[arg(long)]
    arch: Option<String>,
    /// Layers
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// Width of the residual stream
    #[arg(long, value_name = "N")]
    width: Option<u32>,
    /// Query heads
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// KV heads [default: as many as query heads]
    #[arg(long, value_name = "N")]
    kv_heads: Option<u32>,
    /// Elements of a head [default: width / heads]
    #[arg(long, value_name = "N")]
    head_dim: Option<u32>,
    /// Width of the hidden layer, of an expert where there are experts [default: 4 x width]
    #[arg(long, visible_alias = "ff", value_name = "N")]
    feed_forward: Option<u32>,
    /// Tokens
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,
    /// Context that the model says it was trained on
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Base of the rotation frequencies
    #[arg(long, value_name = "X")]
    rope_base: Option<f32>,
    /// Context extension: none, linear:FACTOR or yarn:FACTOR
    #[arg(long, value_name = "KIND")]
    rope_scaling: Option<RopeScaling>,
    /// Whether the embedding is the output matrix too
    #[arg(long, value_name = "BOOL")]
    tied: Option<bool>,
    /// Whether q, k and v have biases
    #[arg(long, value_name = "BOOL")]
    attention_biases: Option<bool>,
    /// Whether the logits have a bias (llama.cpp reads it in qwen2 only)
    #[arg(long, value_name = "BOOL")]
    output_bias: Option<bool>,
    /// Whether there are Llama 3's rope factors
    #[arg(long, value_name = "BOOL")]
    rope_factors: Option<bool>,
    /// Experts a layer and experts used a token, such as 8:2
    #[arg(long, value_name = "COUNT:USED", value_parser = experts)]
    experts: Option<(u32, u32)>,
}

const EXAMPLES: &str = "\
Examples:
  loadmaster synth --list
  loadmaster synth llama-1b --type q4_k -o llama-1b-q4_k.gguf
  loadmaster synth llama-tiny --type f16 --layers 4 --rope-scaling yarn:4 -o tiny.gguf
  loadmaster synth --arch qwen3 --layers 8 --width 512 --heads 8 --kv-heads 2 --type q6_k -o small.gguf

A shape file is JSON: {\"arch\": \"llama\", \"layers\": 2, \"width\": 256, \"heads\": 4, \"kv_heads\": 2, \"head_dim\": 64,
\"feed_forward\": 512, \"vocab\": 512}, and as wished context, rope_base, norm_eps, tied, attention_biases, output_bias,
rope_factors, rope_scaling, experts {count, used, feed_forward}, latent {q_rank, rank, rotary, value_dim, dense_layers,
shared, sigmoid, normalize, scale, groups, log_multiplier}, windows {length, period, rope_base}.";

pub(super) fn run(args: Args) -> Result<()> {
    if args.list {
        return list();
    }
    let shape = args.dims.apply(base(args.shape.as_deref(), &args.dims)?);
    let synth = Synth::new(&shape, args.dtype, args.seed).map_err(usage)?;
    let Some(out) = args.out else { bail!(Usage("needed -o FILE".to_owned())) };
    if let Some(first) = synth.fallbacks().first() {
        let (n, block) = (synth.fallbacks().len(), args.dtype.block().elements);
        note(&format!(
            "note: {n} matrices have rows that are no multiple of {block}, so they are not {}: {} has rows of {} and is {}",
            args.dtype, first.tensor, first.columns, first.dtype
        ));
    }
    let total = synth.bytes();
    let bar = Bar::bytes("writing");
    synth.write_file(&out, |done| bar.at(done.0, total.0))?;
    drop(bar);
    let parameters: u64 = synth.tensors().iter().map(|t| t.shape.elements()).sum();
    note(&format!("{}: {} tensors, {parameters} parameters, {total}", out.display(), synth.tensors().len()));
    Ok(())
}

fn list() -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for shape in names().filter_map(named) {
        let experts = shape.experts.map_or(String::new(), |e| format!(", {} experts of which {}", e.count, e.used));
        let ModelShape { name, arch, layers, width, heads, kv_heads, vocab, feed_forward, .. } = &shape;
        writeln!(
            out,
            "{name:19} {arch:9} {layers:3} layers, width {width:5}, heads {heads:3}/{kv_heads:3}, hidden {feed_forward:6}, \
             vocabulary {vocab:7}{experts}"
        )?;
    }
    Ok(())
}

/// The shape that dimensions are applied to.
fn base(shape: Option<&str>, dims: &Dims) -> Result<ModelShape> {
    let Some(shape) = shape else { return dims.shape() };
    if let Some(named) = named(shape) {
        return Ok(named);
    }
    if !shape.ends_with(".json") {
        return Err(usage(SynthError::Name { found: shape.to_owned() }));
    }
    let text = std::fs::read_to_string(shape).with_context(|| format!("{shape}: cannot read the shape"))?;
    serde_json::from_str(&text).with_context(|| format!("{shape}: this is no shape"))
}

impl Dims {
    /// A shape from the dimensions alone.
    fn shape(&self) -> Result<ModelShape> {
        let needed = |what: &str, value: Option<u32>| {
            value.ok_or_else(|| Usage(format!("needed --{what}, or the name of a shape (see --list)")))
        };
        let (width, heads) = (needed("width", self.width)?, needed("heads", self.heads)?);
        Ok(ModelShape {
            name: String::new(),
            arch: self.arch.clone().unwrap_or_default(),
            layers: needed("layers", self.layers)?,
            width,
            heads,
            kv_heads: heads,
            head_dim: width / heads.max(1),
            feed_forward: width.saturating_mul(4),
            vocab: 512,
            context: 4096,
            rope_base: 10_000.0,
            norm_eps: 1e-5,
            tied: false,
            attention_biases: false,
            output_bias: false,
            rope_factors: false,
            rope_scaling: RopeScaling::None,
            experts: None,
            latent: None,
            windows: None,
        })
    }

    fn apply(&self, mut shape: ModelShape) -> ModelShape {
        fn set<T: Clone>(target: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *target = value.clone();
            }
        }
        set(&mut shape.arch, &self.arch);
        set(&mut shape.layers, &self.layers);
        set(&mut shape.width, &self.width);
        set(&mut shape.heads, &self.heads);
        set(&mut shape.kv_heads, &self.kv_heads);
        set(&mut shape.head_dim, &self.head_dim);
        set(&mut shape.feed_forward, &self.feed_forward);
        set(&mut shape.vocab, &self.vocab);
        set(&mut shape.context, &self.context);
        set(&mut shape.rope_base, &self.rope_base);
        set(&mut shape.rope_scaling, &self.rope_scaling);
        set(&mut shape.tied, &self.tied);
        set(&mut shape.attention_biases, &self.attention_biases);
        set(&mut shape.output_bias, &self.output_bias);
        set(&mut shape.rope_factors, &self.rope_factors);
        let hidden = self.feed_forward.or(shape.experts.map(|e| e.feed_forward)).unwrap_or(shape.feed_forward);
        let asked = self.experts.or(shape.experts.map(|e| (e.count, e.used)));
        shape.experts = asked.map(|(count, used)| ExpertShape { count, used, feed_forward: hidden });
        shape
    }
}

/// A shape that cannot be is a matter of usage; a disk that is full is not.
fn usage(error: SynthError) -> anyhow::Error {
    match error {
        SynthError::Type { .. } | SynthError::Shape { .. } | SynthError::Name { .. } => Usage(error.to_string()).into(),
        SynthError::Dims(_) | SynthError::Write(_) => error.into(),
    }
}

fn dtype(text: &str) -> Result<DType, String> {
    let found = DType::from_name(text).filter(|t| crate::tensor::quant::can_decode(*t));
    found.ok_or_else(|| "needed a tensor type such as f16, q4_0, q8_0, q4_k, q6_k, iq4_xs or mxfp4".to_owned())
}

fn experts(text: &str) -> Result<(u32, u32), String> {
    let numbers = text.split_once(':').and_then(|(count, used)| Some((count.parse().ok()?, used.parse().ok()?)));
    numbers.ok_or_else(|| "needed COUNT:USED, such as 8:2".to_owned())
}
