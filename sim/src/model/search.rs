//! One search.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use super::{Cluster, GOES_ON, Scope};

/// What a search has found.
#[derive(Clone, Debug)]
pub struct Found {
    /// How many different states there are.
    pub states: usize,
    /// How many steps the longest way takes that has no shorter one to the same state.
    pub depth: usize,
    /// All of them were seen.
    pub finished: bool,
    /// Something was acknowledged in a later epoch: the search was not empty.
    pub went_on: bool,
    /// The promises that were broken, each with the shortest story.
    pub broken: Vec<(&'static str, Vec<String>)>,
}

/// Looks at every state, breadth first, until a promise is broken or the time is over.
#[must_use]
pub fn search(scope: &Scope, threads: usize, limit: Duration) -> Found {
    let failures = Cluster::new(scope.clone()).properties();
    let failures = failures.iter().map(|p| p.name).filter(|name| *name != GOES_ON).collect();
    let builder = Cluster::new(scope.clone()).checker();
    let builder = builder.threads(threads).timeout(limit).finish_when(HasDiscoveries::AnyOf(failures));
    #[expect(clippy::disallowed_methods, reason = "the checker keeps to its limit by this clock, and does not say so")]
    let begun = Instant::now();
    let mut checker = builder.spawn_bfs();
    for handle in checker.handles() {
        if let Err(panic) = handle.join() {
            std::panic::resume_unwind(panic);
        }
    }
    let discoveries = checker.discoveries();
    let went_on = discoveries.contains_key(GOES_ON);
    let stories = discoveries.into_iter().filter(|(name, _)| *name != GOES_ON);
    let broken: Vec<_> =
        stories.map(|(name, path)| (name, path.into_actions().iter().map(ToString::to_string).collect())).collect();
    Found {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        finished: begun.elapsed() < limit && broken.is_empty(),
        went_on,
        broken,
    }
}
