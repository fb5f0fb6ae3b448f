//! Run-time choice of the instruction set: what this machine has, and a job compiled for each.
//! Never runs a set that the processor or the operating system lacks.
#![allow(unsafe_code)]

use std::fmt;

#[cfg(target_arch = "x86_64")]
use super::x86_64::{avx2::Avx2, avx512::Avx512};
use super::{Simd, scalar::Scalar};

/// An instruction set for which kernels are compiled, from the plainest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust, one lane at a time.
    Scalar,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX2 with the four-byte dot product of AVX-VNNI.
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    Avx512,
}

/// A kernel, generic over the instruction set.
pub trait Job {
    /// What it returns.
    type Out;
    /// Does it. Implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

impl Isa {
    /// All sets, from the plainest to the widest.
    pub const ALL: [Isa; 4] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512];

    /// The widest set of this machine.
    pub fn detect() -> Isa {
        Self::ALL.into_iter().rev().find(|isa| isa.available()).unwrap_or(Isa::Scalar)
    }

    /// Whether this machine can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => avx2(),
            Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }

    /// Whether this machine can run it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => false,
        }
    }

    /// The name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512",
        }
    }

    /// Runs `job` compiled for this set.
    ///
    /// # Panics
    /// Where this machine lacks the set.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub fn run<J: Job>(self, job: J) -> J::Out {
        assert!(self.available(), "the instruction set {self} is not of this machine");
        match self {
            Isa::Scalar => job.run(Scalar),
            // SAFETY: `available` has just found every feature that the function enables.
            Isa::Avx2 => unsafe { run_avx2(job) },
            // SAFETY: as above.
            Isa::AvxVnni => unsafe { run_avx_vnni(job) },
            // SAFETY: as above.
            Isa::Avx512 => unsafe { run_avx512(job) },
        }
    }

    /// Runs `job` compiled for this set.
    ///
    /// # Panics
    /// Where this machine lacks the set.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn run<J: Job>(self, job: J) -> J::Out {
        assert!(self.available(), "the instruction set {self} is not of this machine");
        job.run(Scalar)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<J: Job>(job: J) -> J::Out {
    // SAFETY: the features of this function are those that the token stands for.
    job.run(unsafe { Avx2::<false>::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn run_avx_vnni<J: Job>(job: J) -> J::Out {
    // SAFETY: the features of this function are those that the token stands for.
    job.run(unsafe { Avx2::<true>::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn run_avx512<J: Job>(job: J) -> J::Out {
    // SAFETY: the features of this function are those that the token stands for.
    job.run(unsafe { Avx512::new() })
}
