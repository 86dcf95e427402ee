//! Asks the admin address for changes, as an operator would.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::Value;

use crate::bytes::hello;
use crate::harness::{DEADLINE, Running, TOKEN};
use crate::wire::send;

impl Running {
    /// Sends a request with these header lines, each with its line end; the status and the answer.
    #[track_caller]
    pub fn call(&self, request: &str, headers: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.admin()).expect("the admin address answers");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let host = if headers.to_ascii_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.admin())
        };
        let has_proof =
            request.starts_with("GET") || headers.contains("Authorization") || headers.contains("X-Snigate");
        let proof = if has_proof { String::new() } else { format!("Authorization: Bearer {TOKEN}\r\n") };
        write!(stream, "{request} HTTP/1.1\r\n{host}{headers}{proof}Connection: close\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("the answer ends");
        let (head, body) = response.split_once("\r\n\r\n").expect("a whole head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    /// What the backend of `name` answers.
    #[track_caller]
    pub fn answer(&self, name: &str) -> Vec<u8> {
        let mut client = send(self.address(), &hello(name));
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        answer
    }

    /// A connection to `name` that is served, by a backend that answers with `answer`, and stays open.
    #[track_caller]
    pub fn open(&self, name: &str, answer: &[u8]) -> TcpStream {
        let mut client = send(self.address(), &hello(name));
        let mut came = vec![0; answer.len()];
        client.read_exact(&mut came).unwrap();
        assert_eq!(came, answer);
        client
    }
}
