//! A fit → the plan of a step of any size, with the fit's homes and made the way its own buckets were made.

use super::{Bucket, Fit, FitError, Graphs, Request, Study, bucket, short};
use crate::device::Machine;
use crate::units::Tokens;

impl Fit {
    /// The step of `tokens` tokens: one of the fit's own buckets, or the fastest plan that fits for another size.
    /// `graphs`, `machine` and `request` are those of the fit.
    ///
    /// # Errors
    /// There is no graph or no plan, or the step does not fit: the memory and the bytes it lacks.
    pub fn step(
        &self,
        graphs: Graphs<'_>,
        machine: &Machine,
        request: &Request,
        tokens: Tokens,
    ) -> Result<Bucket, FitError> {
        let own = [&self.largest, &self.prefill, &self.decode];
        if let Some(bucket) = own.into_iter().find(|bucket| bucket.graph.batch().tokens == tokens) {
            return Ok(bucket.clone());
        }
        let study = Study::new(graphs, machine, request)?;
        let found = bucket(&study, &self.dealt.residency, tokens, &[])?;
        let uses = study.together(&[&found.plan]);
        match study.over(&uses) {
            Some(memory) => Err(short(&study.machine, memory, &uses, &request.wishes)),
            None => Ok(found),
        }
    }
}
