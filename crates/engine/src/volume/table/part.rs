//! One table laid over another, and completed.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;

use super::{Database, ListenText, Part};
use crate::volume::template::Template;

impl Part {
    /// The same as a preset: its user is a default, for agents that are root.
    pub(in crate::volume) fn into_preset(mut self) -> Self {
        self.default_user = self.user.take();
        self
    }

    /// What this says, and where it says nothing, what `below` says. Environment and files are laid over each other one
    /// by one, lists replaced as a whole.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        let merged = |mut base: BTreeMap<String, Template>, over: BTreeMap<String, Template>| {
            base.extend(over);
            base
        };
        let image = self.container.image.is_some();
        let other = self.command.is_some();
        Self {
            // Another program takes other arguments, and comes from another package.
            package: self.package.or(if self.command.is_some() { None } else { below.package }),
            // An image is given all that it runs, or what the preset runs.
            command: self.command.or(if image && self.args.is_some() { None } else { below.command }),
            args: self.args.or(if other { None } else { below.args }),
            env: merged(below.env, self.env),
            files: merged(below.files, self.files),
            user: self.user.or(below.user),
            // The image has users and first data of its own.
            default_user: self.default_user.or(if image { None } else { below.default_user }),
            path: self.path.or(below.path),
            workdir: self.workdir.or(below.workdir),
            listen: self.listen.or(below.listen),
            init: self.init.or(if image { None } else { below.init }),
            init_deadline: self.init_deadline.or(below.init_deadline),
            remove: self.remove.or(below.remove),
            ready: self.ready.over(below.ready),
            ready_within: self.ready_within.or(below.ready_within),
            health: self.health.over(below.health),
            health_failures: self.health_failures.or(below.health_failures),
            stop_signal: self.stop_signal.or(below.stop_signal),
            stop_patience: self.stop_patience.or(below.stop_patience),
            uri: self.uri.or(below.uri),
            container: self.container.over(below.container),
        }
    }

    /// With the defaults; `None` without a program or an image.
    #[must_use]
    pub fn complete(self) -> Option<Database> {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        if self.command.is_none() && self.container.image.is_none() {
            return None;
        }
        Some(Database {
            command: self.command,
            args: self.args.unwrap_or_default(),
            env: self.env,
            files: self.files,
            user: self.user,
            default_user: self.default_user,
            package: self.package,
            path: self.path.unwrap_or_default(),
            workdir: self.workdir,
            listen: self.listen.unwrap_or(ListenText::Tcp),
            init: self.init.unwrap_or_default(),
            init_deadline: self.init_deadline.unwrap_or(minute * 10),
            remove: self.remove.unwrap_or_default(),
            ready: self.ready.complete(Duration::from_millis(50), second * 5),
            ready_within: self.ready_within.unwrap_or(minute * 10),
            health: self.health.complete(second, second * 5),
            health_failures: self.health_failures.unwrap_or(3),
            stop_signal: self.stop_signal.unwrap_or(Signal::TERM),
            stop_patience: self.stop_patience.unwrap_or(second * 20),
            uri: self.uri,
            container: self.container,
        })
    }
}
