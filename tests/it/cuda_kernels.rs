//! Every kernel for CUDA compiles and assembles for four architectures without spilling registers: with NVRTC, which needs
//! no card. `COMPILE_KERNELS` asks for it: `some`, each type for each architecture, or `all`, in all sizes of tiles.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use loadmaster::backend::cuda::{KernelText, kernel_texts};

/// Turing without tensor cores for what kernels need, Ampere, Hopper, Blackwell.
const ARCHITECTURES: [u32; 4] = [75, 80, 90, 120];

/// Registers that a thread may have.
const MOST_REGISTERS: u32 = 255;

/// What the compiler says of each kernel must be so; the most registers that one has.
fn judged(name: &str, log: &str) -> Result<u32, String> {
    let mut most = 0;
    for line in log.lines() {
        let number = |before: &str, after: &str| -> Option<u32> {
            let rest = line.split(before).nth(1)?;
            rest.split(after).next()?.trim().parse().ok()
        };
        if line.contains("bytes spill stores") && !line.contains(" 0 bytes stack frame, 0 bytes spill stores, 0 bytes")
        {
            return Err(format!("{name}: {}", line.trim()));
        }
        if let Some(registers) = number("Used ", " registers") {
            most = most.max(registers);
        }
    }
    match most {
        1..=MOST_REGISTERS => Ok(most),
        _ => Err(format!("{name}: no registers are told of in {log:?}")),
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture_without_spills() {
    let Ok(asked) = std::env::var("COMPILE_KERNELS") else {
        return eprintln!("skipped: COMPILE_KERNELS asks for it");
    };
    let mut jobs: Vec<(u32, KernelText)> = Vec::new();
    for architecture in ARCHITECTURES {
        let small = |text: &KernelText| ["TILE=16", "TILE=32"].iter().any(|tile| text.name().ends_with(tile));
        let wanted = |text: &KernelText| asked == "all" || architecture < 80 || architecture == 90 || !small(text);
        jobs.extend(kernel_texts(architecture).into_iter().filter(wanted).map(|text| (architecture, text)));
    }
    let (next, wrong, most) = (AtomicUsize::new(0), Mutex::new(Vec::new()), AtomicUsize::new(0));
    let work = || {
        while let Some((architecture, text)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let name = format!("{} for sm_{architecture}", text.name());
            match text.compile(*architecture).and_then(|log| judged(&name, &log)) {
                Ok(registers) => _ = most.fetch_max(registers as usize, Ordering::Relaxed),
                Err(why) => wrong.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {why}")),
            }
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (1..cores).for_each(|_| _ = scope.spawn(work));
        work();
    });
    eprintln!("{} texts, at most {} registers", jobs.len(), most.into_inner());
    let wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert!(wrong.is_empty() && jobs.len() > 300, "{} of {}: {wrong:#?}", wrong.len(), jobs.len());
}
