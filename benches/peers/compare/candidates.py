"""What is compared, and how each is started: one name to one backend, one worker, no line for a connection.

In:  a directory of its own, the port to listen on, the port of the backend, how many connections may be open.
Out: the command to run, with its configuration written.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

# What the load tool's captured hello asks for.
SERVER_NAME = "curl.captured.test"


@dataclass
class Place:
    """Where one run of a candidate lives."""

    directory: Path
    listen: int
    backend: int
    connections: int

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)


@dataclass
class Candidate:
    name: str
    # Environment variable that may hold the program's path, and its name on PATH.
    variable: str
    program: str
    version: list[str]
    start: Callable[[str, Place], list[str]] | None
    environment: dict[str, str] = field(default_factory=dict)
    # Ours, in whatever build or configuration: nobody to be measured against.
    own: bool = False

    def find(self) -> str | None:
        # Debian keeps some of them in sbin, which is not on everybody's PATH.
        path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
        return shutil.which(os.environ.get(self.variable) or self.program, path=path)

    def version_text(self, program: str) -> str:
        done = subprocess.run([program, *self.version], capture_output=True, text=True, timeout=20, check=False)
        first = next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "?")
        # Some say where they are first, and some only a number.
        return f"{self.program}: {first.removeprefix(program).strip()}"


def snigate(program: str, place: Place) -> list[str]:
    config = place.write("snigate.yaml", f"""\
listeners:
  - {{ name: tls, bind: "127.0.0.1:{place.listen}" }}
routes:
  - {{ sni: {SERVER_NAME}, pool: app }}
pools:
  app: {{ backends: ["127.0.0.1:{place.backend}"] }}
runtime: {{ workers: 1 }}
admin: {{ bind: "127.0.0.1:0" }}
log: {{ level: warn, connections: off }}
""")
    return [program, "run", "--config", config]


def haproxy(*options: str) -> Callable[[str, Place], list[str]]:
    def start(program: str, place: Place) -> list[str]:
        lines = "\n".join(f"    option {option}" for option in options)
        config = place.write("haproxy.cfg", f"""\
global
    nbthread 1
    maxconn {place.connections}
    maxpipes 200
defaults
    mode tcp
{lines}
    timeout connect 3s
    timeout client 1h
    timeout server 1h
frontend tls
    bind 127.0.0.1:{place.listen} backlog 4096
    tcp-request inspect-delay 10s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend app if {{ req.ssl_sni -i {SERVER_NAME} }}
backend app
    server app 127.0.0.1:{place.backend}
""")
        return [program, "-db", "-f", config]

    return start


def nginx(program: str, place: Place) -> list[str]:
    module = next((path for path in NGINX_STREAM if Path(path).exists()), None)
    load = f"load_module {module};" if module else ""
    config = place.write("nginx.conf", f"""\
{load}
user root;
daemon off;
worker_processes 1;
pid {place.directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {2 * place.connections}; }}
stream {{
    access_log off;
    upstream app {{ server 127.0.0.1:{place.backend}; }}
    map $ssl_preread_server_name $pool {{ {SERVER_NAME} app; }}
    server {{
        listen 127.0.0.1:{place.listen} backlog=4096;
        ssl_preread on;
        proxy_pass $pool;
        proxy_timeout 1h;
    }}
}}
""")
    return [program, "-p", str(place.directory), "-e", "stderr", "-c", config]


def envoy(program: str, place: Place) -> list[str]:
    config = place.write("envoy.yaml", f"""\
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {place.listen} }} }}
    tcp_backlog_size: 4096
    listener_filters:
    - name: tls_inspector
      typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }}
    filter_chains:
    - filter_chain_match: {{ server_names: ["{SERVER_NAME}"] }}
      filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: app
  clusters:
  - name: app
    type: STATIC
    connect_timeout: 3s
    circuit_breakers: {{ thresholds: [{{ max_connections: 100000, max_pending_requests: 100000 }}] }}
    load_assignment:
      cluster_name: app
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {place.backend} }} }} }}
""")
    return [program, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "critical"]


def traefik(program: str, place: Place) -> list[str]:
    routes = place.write("routes.yaml", f"""\
tcp:
  routers:
    app:
      rule: HostSNI(`{SERVER_NAME}`)
      service: app
      tls: {{ passthrough: true }}
  services:
    app:
      loadBalancer: {{ servers: [{{ address: "127.0.0.1:{place.backend}" }}] }}
""")
    config = place.write("traefik.yaml", f"""\
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
log: {{ level: ERROR }}
entryPoints:
  tls: {{ address: "127.0.0.1:{place.listen}" }}
providers:
  file: {{ filename: {routes}, watch: false }}
""")
    return [program, f"--configFile={config}"]


def sniproxy(program: str, place: Place) -> list[str]:
    pattern = SERVER_NAME.replace(".", "\\.")
    config = place.write("sniproxy.conf", f"""\
user root
pidfile {place.directory}/sniproxy.pid
error_log {{
    filename {place.directory}/sniproxy.log
    priority emerg
}}
listener 127.0.0.1:{place.listen} {{
    proto tls
    table app
}}
table app {{
    {pattern} 127.0.0.1:{place.backend}
}}
""")
    return [program, "-f", "-n", str(2 * place.connections + 100), "-c", config]


NGINX_STREAM = ["/usr/lib/nginx/modules/ngx_stream_module.so", "/usr/lib64/nginx/modules/ngx_stream_module.so"]

# snigate first: the others are compared with it. `direct` is the load tool talking to itself.
CANDIDATES = [
    Candidate("snigate", "SNIGATE", "snigate", ["--version"], snigate, own=True),
    Candidate("haproxy", "HAPROXY", "haproxy", ["-v"], haproxy()),
    Candidate("haproxy-splice", "HAPROXY", "haproxy", ["-v"], haproxy("splice-auto")),
    Candidate(
        "haproxy-tuned", "HAPROXY", "haproxy", ["-v"], haproxy("splice-auto", "tcp-smart-accept", "tcp-smart-connect")
    ),
    Candidate("nginx", "NGINX", "nginx", ["-v"], nginx),
    Candidate("envoy", "ENVOY", "envoy", ["--version"], envoy),
    Candidate("traefik", "TRAEFIK", "traefik", ["version"], traefik, {"GOMAXPROCS": "1"}),
    Candidate("sniproxy", "SNIPROXY", "sniproxy", ["-V"], sniproxy),
    Candidate("direct", "", "", [], None, own=True),
]
PEERS = [candidate.name for candidate in CANDIDATES if not candidate.own]


def has_variant(name: str, variant: str | None) -> bool:
    """Whether that candidate, which may be another build of snigate, can be told what `variant` changes."""
    return variant is None or variant in (OF_HAPROXY if name == "haproxy" else VARIANTS if is_snigate(name) else {})


def is_snigate(name: str) -> bool:
    return name not in [candidate.name for candidate in CANDIDATES if candidate.name != "snigate"]


def another(name: str, program: str) -> Candidate:
    """Another build of snigate, to be measured beside the first."""
    return Candidate(name, "", program, ["--version"], snigate, own=True)


def with_routes(count: int) -> Callable[[str], str]:
    """Other names before the one that is asked for."""
    others = lambda: "".join(f"  - {{ sni: n{number}.routes.test, pool: app }}\n" for number in range(count))
    return lambda text: text.replace("routes:\n", "routes:\n" + others())


# What else snigate may be told: changes to its configuration.
VARIANTS: dict[str, Callable[[str], str]] = {
    "copy": lambda text: text + "relay: { splice: off }\n",
    "wildcard": lambda text: text.replace(f"sni: {SERVER_NAME}", f'sni: "*.{SERVER_NAME.split(".", 1)[1]}"'),
    "routes-10": with_routes(10),
    "routes-10000": with_routes(10_000),
    "routes-1000000": with_routes(1_000_000),
    "workers-2": lambda text: text.replace("workers: 1", "workers: 2"),
    "deny-100000": lambda text: text.replace(" }", ', deny: ["@banned.txt"] }', 1),
    "front-door": lambda text: text.replace(
        " }", ', deny: ["@banned.txt"], per_client: { connections: 100000, rate: 100000/s, burst: 100000 } }', 1
    ),
}

# The same for HAProxy, where it can do the same.
OF_HAPROXY: dict[str, Callable[[str], str]] = {
    "deny-100000": lambda text: text.replace(
        "    tcp-request inspect-delay",
        "    tcp-request connection reject if { src -f banned.txt }\n    tcp-request inspect-delay",
    ),
    "front-door": lambda text: text.replace(
        "    tcp-request inspect-delay",
        "    stick-table type ip size 64k expire 10m store conn_cur,conn_rate(1s)\n"
        "    tcp-request connection reject if { src -f banned.txt }\n"
        "    tcp-request connection track-sc0 src\n"
        "    tcp-request connection reject if { sc0_conn_cur gt 100000 } || { sc0_conn_rate gt 100000 }\n"
        "    tcp-request inspect-delay",
    ),
}


def banned() -> str:
    """100,000 networks that do not meet, none of them the load's."""
    return "".join(f"{11 + number // 65536}.{number // 256 % 256}.{number % 256}.0/25\n" for number in range(100_000))


def varied(candidate: Candidate, variant: str | None) -> Candidate:
    """`candidate` with the configuration of that variant."""
    if variant is None:
        return candidate

    def start(program: str, place: Place) -> list[str]:
        command = candidate.start(program, place)
        config = Path(command[-1])
        before = config.read_text()
        after = (OF_HAPROXY if candidate.name == "haproxy" else VARIANTS)[variant](before)
        assert after != before, f"{variant} changes nothing"
        config.write_text(after)
        if "banned.txt" in after:
            config.with_name("banned.txt").write_text(banned())
        return command

    return replace(candidate, start=start)


def candidate_of(order: dict) -> Candidate:
    """The candidate that an order is for."""
    known = (candidate for candidate in CANDIDATES if candidate.name == order["candidate"])
    return varied(next(known, another(order["candidate"], order["program"])), order.get("variant"))
