//! A container engine that a test scripts: the few requests of the Docker API that snigate makes, over a unix socket.
//!
//! In:  containers, and how requests are to be answered badly.
//! Out: the JSON that Docker 27 documents, fields that snigate does not read included; events that are sent to all who
//!      follow them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

/// The engine. Dropping it closes its socket and all connections.
pub struct Engine {
    socket: PathBuf,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    containers: Mutex<BTreeMap<String, Value>>,
    listed: AtomicUsize,
    answer: Mutex<Answer>,
    /// What is answered to inspections of these, in place of the truth; nothing at all if it is empty.
    inspections: Mutex<BTreeMap<String, Vec<u8>>>,
    following: Mutex<Vec<UnixStream>>,
    open: Mutex<Vec<UnixStream>>,
}

/// How requests for containers are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    #[default]
    Right,
    /// With these bytes, whatever they are, after which the connection is closed.
    Bytes(Vec<u8>),
    /// With a body that never ends.
    Endless,
    /// Not at all: the connection stays open.
    Nothing,
}

/// A container that is to be in the engine.
#[derive(Clone, Debug)]
pub struct Container {
    pub name: String,
    pub created: u64,
    pub status: &'static str,
    pub health: Option<&'static str>,
    pub labels: BTreeMap<String, String>,
    pub address: Option<String>,
}

impl Container {
    /// One that runs at `address` and wants `sni`; its backend listens at `port`.
    pub fn new(name: &str, created: u64, address: &str, sni: &str, port: u16) -> Self {
        let labels = [("snigate.sni", sni.to_owned()), ("snigate.port", port.to_string())];
        Self {
            name: name.to_owned(),
            created,
            status: "running",
            health: None,
            labels: labels.map(|(label, text)| (label.to_owned(), text)).into(),
            address: Some(address.to_owned()),
        }
    }

    pub fn label(mut self, label: &str, text: &str) -> Self {
        self.labels.insert(label.to_owned(), text.to_owned());
        self
    }

    fn id(&self) -> String {
        self.name.bytes().fold(String::new(), |id, byte| id + &format!("{byte:02x}"))
    }
}

impl Engine {
    pub fn start(directory: &Path) -> Self {
        let engine = Self { socket: directory.join("docker.sock"), inner: Arc::default() };
        engine.listen();
        engine
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Begins to listen, or begins again.
    pub fn listen(&self) {
        let _ = fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let inner = Arc::downgrade(&self.inner);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(inner) = inner.upgrade() else { return };
                inner.open.lock().unwrap().push(stream.try_clone().unwrap());
                thread::spawn(move || inner.serve(stream));
            }
        });
    }

    /// The socket is gone, and so are all connections.
    pub fn vanish(&self) {
        let _ = fs::remove_file(&self.socket);
        self.hang_up();
    }

    /// Closes all connections; the socket stays.
    pub fn hang_up(&self) {
        self.inner.following.lock().unwrap().clear();
        for stream in self.inner.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Answers requests for containers so from now on.
    pub fn answers(&self, answer: Answer) {
        *self.inner.answer.lock().unwrap() = answer;
    }

    /// How often the containers were listed.
    pub fn listed(&self) -> usize {
        self.inner.listed.load(Ordering::SeqCst)
    }

    /// Adds or changes a container, and sends the event `action`.
    pub fn put(&self, container: &Container, action: &str) {
        let id = container.id();
        self.inner.containers().insert(id.clone(), inspected(container));
        self.event("container", action, &id);
    }

    /// Answers inspections of this container with `bytes` from now on; if there are none, not at all.
    pub fn inspects_as(&self, container: &Container, bytes: &[u8]) {
        self.inner.inspections.lock().unwrap().insert(container.id(), bytes.to_vec());
    }

    /// Removes it, and sends the event.
    pub fn remove(&self, container: &Container) {
        self.inner.containers().remove(&container.id());
        self.event("container", "destroy", &container.id());
    }

    pub fn event(&self, kind: &str, action: &str, id: &str) {
        let event = json!({
            "status": action, "id": id, "from": "image", "Type": kind, "Action": action,
            "Actor": { "ID": id, "Attributes": { "image": "image", "name": "some" } },
            "scope": "local", "time": 1_700_000_000, "timeNano": 1_700_000_000_000_000_000_u64,
        });
        self.line(&event.to_string());
    }

    /// Sends a line to all who follow the events.
    pub fn line(&self, line: &str) {
        let chunk = format!("{:x}\r\n{line}\n\r\n", line.len() + 1);
        self.inner.following.lock().unwrap().retain_mut(|stream| stream.write_all(chunk.as_bytes()).is_ok());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.vanish();
    }
}

impl Inner {
    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.containers.lock().unwrap()
    }

    fn serve(&self, mut stream: UnixStream) {
        let Some(path) = requested(&mut stream) else { return };
        if path.starts_with("/events?") {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            if stream.write_all(head.as_bytes()).is_ok() {
                self.following.lock().unwrap().push(stream);
            }
            return;
        }
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Answer::Right => {}
            Answer::Bytes(bytes) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Answer::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[");
                while stream.write_all(&[b' '; 64 << 10]).is_ok() {}
                return;
            }
            Answer::Nothing => {
                let _ = stream.read(&mut [0]);
                return;
            }
        }
        let instead = self.inspections.lock().unwrap().get(inspected_id(&path)).cloned();
        if let Some(bytes) = instead {
            if bytes.is_empty() {
                let _ = stream.read(&mut [0]);
            }
            let _ = stream.write_all(&bytes);
            return;
        }
        let (status, body) = self.answer_to(&path);
        let head = format!(
            "HTTP/1.1 {status}\r\nApi-Version: 1.47\r\nContent-Type: application/json\r\nServer: Docker/27.5.1 (linux)\r\n"
        );
        let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
    }

    fn answer_to(&self, path: &str) -> (&'static str, String) {
        let containers = self.containers();
        if path.starts_with("/containers/json?") {
            self.listed.fetch_add(1, Ordering::SeqCst);
            let listed: Vec<Value> = containers.values().map(listed).collect();
            return ("200 OK", json!(listed).to_string());
        }
        if path == "/version" {
            return ("200 OK", json!({ "Version": "27.5.1", "ApiVersion": "1.47", "Os": "linux" }).to_string());
        }
        let id = inspected_id(path);
        match containers.get(id) {
            Some(container) => ("200 OK", container.to_string()),
            None => ("404 Not Found", json!({ "message": format!("No such container: {id}") }).to_string()),
        }
    }
}

/// The path of the request.
fn requested(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    head.strip_prefix("GET ")?.split(' ').next().map(str::to_owned)
}

fn inspected_id(path: &str) -> &str {
    path.strip_prefix("/containers/").and_then(|path| path.strip_suffix("/json")).unwrap_or_default()
}

fn listed(inspected: &Value) -> Value {
    json!({
        "Id": inspected["Id"], "Names": [inspected["Name"]], "Image": "image", "ImageID": "sha256:0", "Command": "run",
        "Created": inspected["created_s"], "Ports": [], "Labels": inspected["Config"]["Labels"],
        "State": inspected["State"]["Status"], "Status": "Up 3 minutes", "HostConfig": { "NetworkMode": "edge" },
        "NetworkSettings": inspected["NetworkSettings"], "Mounts": [],
    })
}

fn inspected(container: &Container) -> Value {
    let Container { name, created, status, health, labels, address } = container;
    let health = health.map(|health| json!({ "Status": health, "FailingStreak": 0, "Log": [] }));
    json!({
        "Id": container.id(), "Created": "2026-11-30T12:00:00.123456789Z", "created_s": created, "Path": "run",
        "Args": [], "Name": format!("/{name}"), "RestartCount": 0, "Driver": "overlay2", "Platform": "linux",
        "State": {
            "Status": status, "Running": *status == "running", "Paused": false, "Restarting": false, "OOMKilled": false,
            "Dead": false, "Pid": 4711, "ExitCode": 0, "Error": "", "StartedAt": "", "FinishedAt": "", "Health": health,
        },
        "HostConfig": { "NetworkMode": "edge", "Binds": null, "PortBindings": {} },
        "Config": { "Hostname": "x", "Env": ["A=b"], "Labels": labels, "ExposedPorts": { "443/tcp": {}, "443/udp": {} } },
        "NetworkSettings": { "Bridge": "", "Ports": {}, "Networks": { "edge": {
            "IPAMConfig": null, "Links": null, "Aliases": null, "NetworkID": "7ea2", "EndpointID": "2cdc",
            "Gateway": "10.88.0.1", "IPAddress": address.clone().unwrap_or_default(), "IPPrefixLen": 24,
            "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "MacAddress": "", "DriverOpts": null,
        } } },
    })
}
