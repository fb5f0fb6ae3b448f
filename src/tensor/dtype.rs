//! Every tensor type of the GGUF format: id, name, block length and block bytes.
//! A table, nothing else: codecs live in `quant`.

use std::fmt;

use crate::units::Bytes;

/// A block: the smallest run of elements that is encoded together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Elements in a block.
    pub elements: u32,
    /// Bytes of a block.
    pub bytes: u32,
}

macro_rules! dtypes {
    ($($name:ident = $id:literal, $text:literal, $elements:literal, $bytes:literal;)+) => {
        /// A tensor's element type, as numbered in GGUF files.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the variants are the format's own names")]
        pub enum DType { $($name,)+ }

        impl DType {
            /// All types, in the order of their ids.
            pub const ALL: &[DType] = &[$(DType::$name,)+];

            /// The type of a GGUF type id.
            pub const fn from_ggml(id: u32) -> Option<DType> {
                match id { $($id => Some(DType::$name),)+ _ => None }
            }

            /// The GGUF type id.
            pub const fn ggml(self) -> u32 {
                match self { $(DType::$name => $id,)+ }
            }

            /// The name, in lower case.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$name => $text,)+ }
            }

            /// Block length and bytes.
            pub const fn block(self) -> Block {
                match self { $(DType::$name => Block { elements: $elements, bytes: $bytes },)+ }
            }
        }
    };
}

// Ids and sizes: ggml.h `enum ggml_type` and ggml-common.h block structs. 4, 5 and 31-33, 36-38 are retired there.
dtypes! {
    F32 = 0, "f32", 1, 4;
    F16 = 1, "f16", 1, 2;
    Q4_0 = 2, "q4_0", 32, 18;
    Q4_1 = 3, "q4_1", 32, 20;
    Q5_0 = 6, "q5_0", 32, 22;
    Q5_1 = 7, "q5_1", 32, 24;
    Q8_0 = 8, "q8_0", 32, 34;
    Q8_1 = 9, "q8_1", 32, 36;
    Q2K = 10, "q2_k", 256, 84;
    Q3K = 11, "q3_k", 256, 110;
    Q4K = 12, "q4_k", 256, 144;
    Q5K = 13, "q5_k", 256, 176;
    Q6K = 14, "q6_k", 256, 210;
    Q8K = 15, "q8_k", 256, 292;
    Iq2Xxs = 16, "iq2_xxs", 256, 66;
    Iq2Xs = 17, "iq2_xs", 256, 74;
    Iq3Xxs = 18, "iq3_xxs", 256, 98;
    Iq1S = 19, "iq1_s", 256, 50;
    Iq4Nl = 20, "iq4_nl", 32, 18;
    Iq3S = 21, "iq3_s", 256, 110;
    Iq2S = 22, "iq2_s", 256, 82;
    Iq4Xs = 23, "iq4_xs", 256, 136;
    I8 = 24, "i8", 1, 1;
    I16 = 25, "i16", 1, 2;
    I32 = 26, "i32", 1, 4;
    I64 = 27, "i64", 1, 8;
    F64 = 28, "f64", 1, 8;
    Iq1M = 29, "iq1_m", 256, 56;
    Bf16 = 30, "bf16", 1, 2;
    Tq1_0 = 34, "tq1_0", 256, 54;
    Tq2_0 = 35, "tq2_0", 256, 66;
    Mxfp4 = 39, "mxfp4", 32, 17;
    Nvfp4 = 40, "nvfp4", 64, 36;
    Q1_0 = 41, "q1_0", 128, 18;
}

impl DType {
    /// The type of a lower- or upper-case name.
    pub fn from_name(name: &str) -> Option<DType> {
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a row of `elements`, or `None` where it is no whole number of blocks or past 2^64.
    pub const fn row_bytes(self, elements: u64) -> Option<Bytes> {
        let block = self.block();
        if !elements.is_multiple_of(block.elements as u64) {
            return None;
        }
        match (elements / block.elements as u64).checked_mul(block.bytes as u64) {
            Some(bytes) => Some(Bytes(bytes)),
            None => None,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl serde::Serialize for DType {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for DType {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        DType::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown tensor type {name:?}")))
    }
}
