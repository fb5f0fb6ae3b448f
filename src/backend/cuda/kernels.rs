//! Kernel files → functions of a card: a file is compiled for an architecture and a few numbers, once, and kept.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::driver::{
    Context, DeviceBytes, Function, Launch, Module, PinnedBytes, Refused, Stream, Trouble, compile, compiler, knows,
};
use super::queues::locked;
use crate::backend::kept::Kept;

/// A file of `shaders/cuda` that kernels are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct File {
    /// Its name without `.cu`.
    pub name: &'static str,
    text: &'static str,
}

/// The files that others take in, by name.
type Headers = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($($ident:ident $name:literal)*) => {
        /// All of them.
        const FILES: &[File] = &[$(File::$ident),*];

        impl File {
            $(
                #[doc = concat!("`", $name, ".cu`.")]
                pub const $ident: File =
                    File { name: $name, text: include_str!(concat!("../../../shaders/cuda/", $name, ".cu")) };
            )*
        }
    };
}

macro_rules! headers {
    ($($name:literal)*) => {
        const HEADERS: Headers = &[$(($name, include_str!(concat!("../../../shaders/cuda/", $name)))),*];
    };
}

files! {
    ACTS "acts"
    ATTENTION "attention"
    CACHE "cache"
    CELLS "cells"
    ELEMENTWISE "elementwise"
    GROUPS "groups"
    MATMUL "matmul"
    MATMUL_TILES "matmul_tiles"
    MOE "moe"
    NORM "norm"
    ROPE "rope"
    ROWS "rows"
}

headers! {
    "activation.cuh" "acts.cuh" "attention_cells.cuh" "attention_shape.cuh" "attention_sums.cuh" "attention_walk.cuh"
    "codes/iq4_nl.cuh" "codes/iq4_xs.cuh" "codes/k_scales.cuh" "codes/mxfp4.cuh" "codes/of_type.cuh" "codes/q2_k.cuh"
    "codes/q3_k.cuh" "codes/q4_0.cuh" "codes/q4_1.cuh" "codes/q4_k.cuh" "codes/q5_0.cuh" "codes/q5_1.cuh"
    "codes/q5_k.cuh" "codes/q6_k.cuh" "codes/q8_0.cuh" "codes/read.cuh" "eights.cuh" "machine.cuh" "matmul.cuh"
    "matmul_f32.cuh" "matmul_few_f32.cuh" "matmul_few_i8.cuh" "matmul_few_split.cuh" "matmul_i8.cuh"
    "matmul_one_i8.cuh" "matmul_split.cuh" "matmul_tiles_f32.cuh" "matmul_tiles_i8.cuh" "matmul_tiles_split.cuh"
    "rope.cuh" "route.cuh" "step.cuh" "store.cuh" "sums.cuh" "types/bf16.cuh" "types/f16.cuh" "types/f32.cuh"
    "types/iq4_nl.cuh" "types/iq4_xs.cuh" "types/k_scales.cuh" "types/mxfp4.cuh" "types/q2_k.cuh" "types/q3_k.cuh"
    "types/q4_0.cuh" "types/q4_1.cuh" "types/q4_k.cuh" "types/q5_0.cuh" "types/q5_1.cuh" "types/q5_k.cuh"
    "types/q6_k.cuh" "types/q8_0.cuh" "types/read.cuh" "types/table.cuh" "types/types.cuh"
}

/// A text and what it is compiled for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The file.
    pub file: File,
    /// What the text is compiled for: names with what stands for them.
    pub defines: Vec<String>,
    /// Bytes of its parameters.
    pub params: usize,
}

/// All kernels of a context.
pub struct Kernels {
    context: Arc<Context>,
    architecture: u32,
    room: u32,
    kept: Option<Kept>,
    modules: Mutex<HashMap<Source, Module>>,
    sizes: Mutex<HashMap<Source, [u32; 8]>>,
    functions: Mutex<HashMap<(Source, &'static str), Sharing>>,
}

/// A function, with the most bytes that its blocks were to share.
type Sharing = (Function, u32);

impl Kernels {
    /// None yet; compiled ones are kept in files of a folder and found there.
    ///
    /// # Errors
    /// There is no compiler, or the driver refuses.
    pub fn new(context: &Arc<Context>, folder: Option<&Path>) -> Result<Kernels, Trouble> {
        let architecture = context.architecture()?;
        let room = context.shared()?;
        let version = compiler()?;
        knows(architecture)?;
        let identity = format!("sm_{architecture}\nNVRTC {version}");
        let kept = folder.map(|folder| Kept::of(folder, &identity));
        Ok(Kernels {
            context: Arc::clone(context),
            architecture,
            room,
            kept,
            modules: Mutex::default(),
            sizes: Mutex::default(),
            functions: Mutex::default(),
        })
    }

    /// The card's architecture.
    pub fn architecture(&self) -> u32 {
        self.architecture
    }

    /// Bytes that threads of a block may share.
    pub fn room(&self) -> u32 {
        self.room
    }

    /// Whose they are.
    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// What a kernel of a source writes to the address at place `out` of its parameters: what launches of the others need,
    /// which only the text knows.
    ///
    /// # Errors
    /// As for [`Kernels::function`].
    pub fn sizes(
        &self,
        source: &Source,
        entry: &'static str,
        mut params: Vec<u64>,
        out: usize,
    ) -> Result<[u32; 8], Trouble> {
        if let Some(sizes) = locked(&self.sizes).get(source) {
            return Ok(*sizes);
        }
        let function = self.function(source, entry, 0)?;
        let told = |why: Refused| Trouble::from(why).of(&format!("{entry} of {}.cu", source.file.name));
        let (stream, room) =
            (Stream::new(&self.context).map_err(told)?, DeviceBytes::new(&self.context, 32).map_err(told)?);
        let mut found = PinnedBytes::new(&self.context, 32).map_err(told)?;
        params[out] = room.address(0);
        let launch = Launch { function: &function, grid: (1, 1, 1), threads: 1, shared: 0, params: &params };
        stream.launch(&launch).map_err(told)?;
        stream.fetch(&room, 0, found.bytes_mut()).map_err(told)?;
        stream.finish().map_err(told)?;
        let mut sizes = [0; 8];
        bytemuck::cast_slice_mut(&mut sizes).copy_from_slice(found.bytes());
        Ok(*locked(&self.sizes).entry(source.clone()).or_insert(sizes))
    }

    /// A kernel whose blocks may share so many bytes.
    ///
    /// # Errors
    /// The text does not compile, or the card refuses it.
    pub fn function(&self, source: &Source, entry: &'static str, shared: u32) -> Result<Function, Trouble> {
        let told = |why: Refused| Trouble::from(why).of(&format!("{entry} of {}.cu", source.file.name));
        let module = self.module(source)?;
        let mut functions = locked(&self.functions);
        let (function, most) = match functions.entry((source.clone(), entry)) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(free) => free.insert((module.function(entry).map_err(told)?, 0)),
        };
        if shared > *most {
            function.share(shared).map_err(told)?;
            *most = shared;
        }
        Ok(function.clone())
    }

    /// Compiles what is not compiled yet; several threads may compile different sources.
    ///
    /// # Errors
    /// As for [`Kernels::function`].
    pub fn module(&self, source: &Source) -> Result<Module, Trouble> {
        if let Some(module) = locked(&self.modules).get(source) {
            return Ok(module.clone());
        }
        let named = |why: Trouble| why.of(&format!("{}.cu", source.file.name));
        let (text, options) = (text_of(source.file), options_of(source));
        let key = format!("{}\n{text}", options.join(" "));
        let found = self.kept.as_ref().and_then(|kept| kept.find(&key));
        let loaded = found.and_then(|code| Module::load(&self.context, &code).ok());
        let module = match loaded {
            Some(module) => module,
            None => {
                let code = compile(&text, self.architecture, &options).map_err(|why| named(why.into()))?.code;
                let module = Module::load(&self.context, &code).map_err(|why| named(why.into()))?;
                if let Some(kept) = &self.kept {
                    kept.keep(&key, &code);
                }
                module
            }
        };
        Ok(locked(&self.modules).entry(source.clone()).or_insert(module).clone())
    }
}

/// The files that the program has, by their paths in `shaders/cuda`.
pub fn files() -> impl Iterator<Item = String> {
    let headers = HEADERS.iter().map(|(name, _)| (*name).to_owned());
    FILES.iter().map(|file| format!("{}.cu", file.name)).chain(headers)
}

/// What a source is compiled with, whatever the architecture.
pub fn options_of(source: &Source) -> Vec<String> {
    let fixed = ["--std=c++17".to_owned(), "-fmad=false".to_owned(), format!("-DPARAMS_BYTES={}", source.params)];
    let defines = source.defines.iter().map(|define| format!("-D{define}"));
    fixed.into_iter().chain(defines).collect()
}

/// A file with all that it takes in. A compiler reads each text once, wherever it is named first.
pub fn text_of(file: File) -> String {
    let mut text = String::new();
    take_in(file.text, "", &mut text);
    text
}

fn take_in(from: &str, folder: &str, text: &mut String) {
    for line in from.lines().filter(|line| *line != "#pragma once") {
        let named = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
        match named.and_then(|name| find(folder, name)) {
            Some((at, (name, header))) => {
                text.push_str(&format!("#ifndef TAKEN_{at}\n#define TAKEN_{at}\n"));
                take_in(header, name.rfind('/').map_or("", |end| &name[..=end]), text);
                text.push_str("#endif\n");
            }
            None => text.extend([line, "\n"]),
        }
    }
}

/// A header beside the text that names it, or by its path from the top: its number, and it.
fn find(folder: &str, name: &str) -> Option<(usize, (&'static str, &'static str))> {
    let beside = name.strip_prefix("../").map_or_else(|| format!("{folder}{name}"), str::to_owned);
    let of = |path: &str| HEADERS.iter().copied().enumerate().find(|(_, (known, _))| *known == path);
    of(&beside).or_else(|| of(name))
}
