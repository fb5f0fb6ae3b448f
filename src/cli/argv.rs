//! llama.cpp's habits → what the parser reads: `-ngl 99` becomes `--n-gpu-layers 99`, `--ctx_size` becomes `--ctx-size`.
//! Touches names of options only; never what follows `--`, and never the text after `-p`.

use std::ffi::OsString;

/// Short options of several letters.
const LONG: &[(&str, &str)] = &[
    ("-ub", "--ubatch-size"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ngl", "--n-gpu-layers"),
    ("-nkvo", "--no-kv-offload"),
    ("-cmoe", "--cpu-moe"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-ts", "--tensor-split"),
    ("-np", "--parallel"),
    ("-npl", "--parallel"),
    ("-sm", "--split-mode"),
    ("-ot", "--override-tensor"),
    ("-cnv", "--conversation"),
    ("-no-cnv", "--no-conversation"),
    ("-sys", "--system-prompt"),
];

/// Options whose argument is any text, even one that looks like an option.
const TEXT: &[&str] = &["-p", "--prompt", "-sys", "--system-prompt"];

/// Rewrites a command line; its first entry, the program, stays.
pub fn rewrite(argv: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut argv = argv.into_iter();
    let mut out: Vec<OsString> = argv.next().into_iter().collect();
    let (mut options, mut text) = (true, false);
    for arg in argv {
        let verbatim = !options || text;
        options &= verbatim || arg != "--";
        text = !verbatim && TEXT.iter().any(|t| arg == *t);
        out.push(if verbatim { arg } else { rewritten(arg) });
    }
    out
}

fn rewritten(arg: OsString) -> OsString {
    let Some(text) = arg.to_str() else { return arg };
    if let Some((_, long)) = LONG.iter().find(|(short, _)| *short == text) {
        return (*long).into();
    }
    if !text.starts_with("--") {
        return arg;
    }
    match text.split_once('=') {
        Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
        None => text.replace('_', "-").into(),
    }
}
