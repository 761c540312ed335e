//! A person who asks the cluster for things, through the API, at the wrong time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;
use trine_api::{Client, Request};

use super::client::{Pad, notes};
use super::network::SimNetwork;
use super::node::{TOKEN, address};
use super::world::{Shared, lock};

/// The refusal of a second resumption.
const NOT_PAUSED: &str = "it is not paused";

/// What he is about to ask.
pub(super) type Desk = Arc<Mutex<VecDeque<Request>>>;

/// Asks until the clients are to end.
pub(super) async fn run(desk: Desk, world: Shared, pad: Pad, ca: PathBuf, nodes: usize) {
    let client = match client(&ca, nodes) {
        Ok(client) => client,
        Err(error) => return lock(&world).broken(format!("there is no operator: {error}")),
    };
    while !notes(&pad).stop {
        let next = desk.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        if let Some(request) = next {
            let answer = client.request(&request).await;
            let failed = answer.is_err();
            let text = answer.map_or_else(|error| error.to_string(), |accepted| accepted.message);
            lock(&world).tell(format!("the operator asks {request:?}: {text}"));
            // Whoever has paused the repair does not leave before it goes on, however often that takes.
            if failed && request == Request::Resume && !text.contains(NOT_PAUSED) {
                desk.lock().unwrap_or_else(PoisonError::into_inner).push_front(request);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}

fn client(ca: &Path, nodes: usize) -> Result<Client, trine_api::ClientError> {
    let port = trine_agent::Ports::default().api;
    let urls: Vec<String> = (0..nodes).map(|i| format!("https://{}:{port}", address(i))).collect();
    Ok(Client::new(&urls, Some(TOKEN.to_owned()), Some(ca))?.over(Arc::new(SimNetwork)))
}
