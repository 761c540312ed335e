//! A client of MySQL's protocol whose packets are put together by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::packet;
use crate::bed::{show, within};

/// COM_STATISTICS has an answer like no other's: sent after a command, it tells where that one's answer ends.
const MARK: u8 = 0x09;

pub(crate) struct Client(TcpStream);

impl Client {
    /// Logs in without a password.
    pub(crate) async fn login(port: u16, deprecate_eof: bool, extended: u32) -> Self {
        let mut c = Self(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        let (sequence, greeting) = c.packet().await;
        assert_eq!((sequence, greeting[0]), (0, 10), "{}", show(&greeting));
        // Protocol 4.1, multiple statements and results, plugins.
        let flags = 1u32 << 9 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19 | u32::from(deprecate_eof) << 24;
        let head = [&flags.to_le_bytes()[..], &[0, 0, 0, 4, 45], &[0; 19], &extended.to_le_bytes()].concat();
        c.0.write_all(&packet(1, &[&head[..], b"root\0\0mysql_native_password\0"].concat())).await.unwrap();
        c.authenticate().await;
        c
    }

    async fn authenticate(&mut self) {
        let (mut sequence, mut answer) = self.packet().await;
        if answer[0] == 0xfe {
            self.0.write_all(&packet(sequence + 1, b"")).await.unwrap();
            (sequence, answer) = self.packet().await;
        }
        assert_eq!(answer[0], 0, "{sequence} {}", show(&answer));
    }

    async fn packet(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 4];
        within(self.0.read_exact(&mut header)).await.unwrap();
        let [a, b, c, sequence] = header;
        let mut body = vec![0; u32::from_le_bytes([a, b, c, 0]) as usize];
        within(self.0.read_exact(&mut body)).await.unwrap();
        (sequence, body)
    }

    /// Says all this at once, and gives back what is answered before the answer to the last one, the mark.
    pub(crate) async fn pipeline(&mut self, commands: &[&[u8]]) -> Vec<Vec<u8>> {
        let all: Vec<u8> = commands.iter().chain([&&[MARK][..]]).flat_map(|c| packet(0, c)).collect();
        self.0.write_all(&all).await.unwrap();
        let mut answers = vec![];
        loop {
            match self.packet().await {
                (1, body) if body.starts_with(b"Uptime") => return answers,
                (_, body) => answers.push(body),
            }
        }
    }

    pub(crate) async fn command(&mut self, command: &[u8]) -> Vec<Vec<u8>> {
        let answers = self.pipeline(&[command]).await;
        assert!(!answers.is_empty(), "{}", show(command));
        answers
    }

    pub(crate) async fn unanswered(&mut self, command: &[u8]) {
        assert_eq!(self.pipeline(&[command]).await, Vec::<Vec<u8>>::new());
    }

    /// Gives the number of rows back, if there are any.
    pub(crate) async fn query(&mut self, sql: &str) -> usize {
        rows(&self.command(&[&[3], sql.as_bytes()].concat()).await)
    }

    /// Gives the statement's number back.
    pub(crate) async fn prepare(&mut self, sql: &str) -> u32 {
        let answers = self.command(&[&[0x16], sql.as_bytes()].concat()).await;
        assert_eq!(answers[0][0], 0, "{}", show(&answers[0]));
        u32::from_le_bytes(answers[0][1..5].try_into().unwrap())
    }

    pub(crate) async fn execute(&mut self, statement: u32, parameter: Option<i32>, cursor: bool) -> usize {
        let mut command = [&[0x17], &statement.to_le_bytes()[..], &[u8::from(cursor), 1, 0, 0, 0]].concat();
        if let Some(value) = parameter {
            command.extend([0, 1, 3, 0]);
            command.extend(value.to_le_bytes());
        }
        rows(&self.command(&command).await)
    }

    pub(crate) async fn bulk_execute(&mut self, statement: u32, parameters: &[i32]) {
        let mut command = [&[0xfa], &statement.to_le_bytes()[..], &[128, 0, 3, 0]].concat();
        for value in parameters {
            command.push(0);
            command.extend(value.to_le_bytes());
        }
        let answers = self.command(&command).await;
        assert_eq!(answers[0][0], 0, "{}", show(&answers[0]));
    }

    pub(crate) async fn fetch(&mut self, statement: u32, most: u32) -> usize {
        let command = [&[0x1c], &statement.to_le_bytes()[..], &most.to_le_bytes()].concat();
        self.command(&command).await.len() - 1
    }

    pub(crate) async fn change_user(&mut self, name: &str) {
        let command = [b"\x11", name.as_bytes(), b"\0\0d\0\x2d\0mysql_native_password\0"].concat();
        self.0.write_all(&packet(0, &command)).await.unwrap();
        self.authenticate().await;
    }

    /// The connection has ended in an error that is the answer to whatever comes next; gives its text back.
    pub(crate) async fn last_error(&mut self) -> String {
        let mut rest = vec![];
        within(self.0.read_to_end(&mut rest)).await.unwrap();
        assert_eq!((rest.get(3), rest.get(4)), (Some(&1), Some(&0xff)), "{}", show(&rest));
        String::from_utf8_lossy(&rest[7..]).into_owned()
    }
}

/// How many rows there are in the answer's first result set.
fn rows(answers: &[Vec<u8>]) -> usize {
    let [count, ..] = answers else { return 0 };
    if matches!(count[0], 0 | 0xff) {
        return 0;
    }
    let definitions = if count.get(1) == Some(&0) { 0 } else { count[0] as usize };
    let mut rest = answers.iter().skip(1 + definitions).peekable();
    rest.next_if(|p| p[0] == 0xfe && p.len() == 5);
    rest.take_while(|p| p[0] != 0xfe).count()
}
