//! The shortest story of a failure: what is not needed for it is left out.

use super::fault::Plan;

/// Leaves out one step after the other, and keeps a plan for as long as it `fails`.
#[must_use]
pub fn shortest(plan: &Plan, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut again = true;
    while std::mem::take(&mut again) {
        let mut at = 0;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            shorter.steps.remove(at);
            if fails(&shorter) {
                best = shorter;
                again = true;
            } else {
                at += 1;
            }
        }
    }
    best
}
