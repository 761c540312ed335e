//! Does the database answer?

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};
use trine_platform::BoxStream;

use super::container::{ContainerSpec, run_inside};
use super::run::{Failed, end};
use super::spec::{Check, DatabaseSpec, How, Program};

/// How soon a connection breaks that nobody in the container takes.
const BROKEN: Duration = Duration::from_millis(100);
/// How much of an answer is looked at.
const ANSWER: usize = 64 << 10;
/// A start that takes longer is one that somebody may ask about.
const LONG: Duration = Duration::from_secs(5);

/// A database does not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It takes no connection, or breaks it.
    #[error("no connection to {to}: {source}")]
    Connect {
        /// Where.
        to: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// Its answer is another.
    #[error("the answer is not {expect:?}: {said}")]
    Answer {
        /// What was expected.
        expect: String,
        /// The end of what it said.
        said: String,
    },
    /// The program that asks failed.
    #[error("{program} ended with {status}: {said}")]
    Program {
        /// Which.
        program: String,
        /// How.
        status: std::process::ExitStatus,
        /// The end of what it said.
        said: String,
    },
    /// The program that asks failed in the container, or can't be run there.
    #[error("{program} in the container: {said}")]
    Inside {
        /// Which.
        program: String,
        /// How.
        said: String,
    },
    /// The program that asks can't be started.
    #[error("can't run {program}: {source}")]
    Start {
        /// Which.
        program: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("no answer within {limit:?}: {said}")]
    Deadline {
        /// How long it was waited for.
        limit: Duration,
        /// The end of what was said until then.
        said: String,
    },
}

impl DatabaseSpec {
    /// Asks once. Takes no longer than the check's deadline; dropping the future ends what was begun.
    ///
    /// # Errors
    /// [`CheckError`]: how it failed.
    pub async fn ask(&self, check: &Check) -> Result<(), CheckError> {
        let late = CheckError::Deadline { limit: check.deadline, said: end("") };
        match (&check.how, &self.container) {
            (How::Command { program, expect }, Some(container)) => {
                let asked = self.run_inside(container, program, expect.as_deref());
                timeout(check.deadline, asked).await.unwrap_or(Err(late))
            }
            (How::Connect { send, expect }, _) => {
                let asked = self.connect_and_ask(send.as_deref(), expect.as_deref());
                timeout(check.deadline, asked).await.unwrap_or(Err(late))
            }
            (How::Command { program, expect }, None) => {
                self.run_and_ask(program, expect.as_deref(), check.deadline).await
            }
        }
    }

    /// Asks until it answers. Once that takes long, `not_yet` is told each failure. The caller watches whether it still runs, and drops
    /// the future when not.
    ///
    /// # Errors
    /// [`CheckError`]: the last failure, once the time for the start is over.
    pub async fn until_ready(&self, not_yet: impl Fn(&CheckError)) -> Result<(), CheckError> {
        let began = Instant::now();
        loop {
            match self.ask(&self.ready.check).await {
                Ok(()) => return Ok(()),
                Err(e) if began.elapsed() >= self.ready.within => return Err(e),
                Err(e) if began.elapsed() >= LONG => not_yet(&e),
                Err(e) => tracing::trace!(error = %e, "not up yet"),
            }
            sleep(self.ready.check.every).await;
        }
    }

    async fn connect_and_ask(&self, send: Option<&str>, expect: Option<&str>) -> Result<(), CheckError> {
        let broken = |source| CheckError::Connect { to: self.listen.to_string(), source };
        let mut stream = self.listen.connect().await.map_err(broken)?;
        if let Some(text) = send {
            stream.write_all(text.as_bytes()).await.map_err(broken)?;
        }
        match expect {
            Some(expect) => answered(&mut stream, expect).await.map_err(broken)?,
            // The daemon's proxy takes connections before anybody in the container does, and breaks them then.
            None if self.container.is_some() => match timeout(BROKEN, stream.read(&mut [0])).await {
                Ok(Ok(0)) => Err(broken(io::ErrorKind::ConnectionReset.into())),
                Ok(Err(e)) => Err(broken(e)),
                Ok(Ok(_)) | Err(_) => Ok(()),
            },
            None => Ok(()),
        }
    }

    async fn run_inside(
        &self,
        container: &ContainerSpec,
        program: &Program,
        expect: Option<&str>,
    ) -> Result<(), CheckError> {
        let name = program.path.display().to_string();
        let failed = |said: String| CheckError::Inside { program: name.clone(), said };
        let words = [name.clone()].into_iter().chain(program.args.iter().cloned()).collect();
        let (code, said) = run_inside(container, words).await.map_err(failed)?;
        match expect {
            _ if code != 0 => Err(failed(format!("it ended with exit code {code}: {}", end(&said)))),
            Some(expect) if !said.contains(expect) => {
                Err(CheckError::Answer { expect: expect.to_owned(), said: end(&said) })
            }
            _ => Ok(()),
        }
    }

    async fn run_and_ask(&self, program: &Program, expect: Option<&str>, deadline: Duration) -> Result<(), CheckError> {
        let name = program.path.display().to_string();
        let ended = self.run(program, Instant::now() + deadline).await.map_err(|e| match e {
            Failed::Start(source) => CheckError::Start { program: name.clone(), source },
            Failed::Deadline(said) => CheckError::Deadline { limit: deadline, said: end(&said) },
        })?;
        if !ended.status.success() {
            return Err(CheckError::Program { program: name, status: ended.status, said: end(&ended.said) });
        }
        match expect {
            Some(expect) if !ended.said.contains(expect) => {
                Err(CheckError::Answer { expect: expect.to_owned(), said: end(&ended.said) })
            }
            _ => Ok(()),
        }
    }
}

/// Reads until the answer holds what is expected. The outer error: the connection broke before anything was said.
async fn answered(stream: &mut BoxStream, expect: &str) -> io::Result<Result<(), CheckError>> {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let n = match stream.read(&mut piece).await {
            Ok(n) => n,
            Err(e) if said.is_empty() => return Err(e),
            Err(_) => 0,
        };
        said.extend_from_slice(piece.get(..n).unwrap_or_default());
        if said.windows(expect.len()).any(|w| w == expect.as_bytes()) {
            return Ok(Ok(()));
        }
        if n == 0 || said.len() > ANSWER {
            let said = end(&String::from_utf8_lossy(&said));
            return Ok(Err(CheckError::Answer { expect: expect.to_owned(), said }));
        }
    }
}
