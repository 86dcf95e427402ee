//! Holds the system calls that no safe wrapper offers; the only room with `unsafe`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Puts off the choice of a local port until `connect` (ip(7), IP_BIND_ADDRESS_NO_PORT), so that one source address
/// gives as many ports as there are destinations, not as many as there are ports.
///
/// # Errors
/// The kernel's; older ones than 4.2 do not know it.
#[cfg(target_os = "linux")]
pub fn bind_address_no_port(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let bytes = libc::socklen_t::try_from(size_of_val(&on)).expect("4 fits");
    // SAFETY: the descriptor is borrowed and open, the value is a live c_int of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            bytes,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub fn bind_address_no_port(_: impl AsFd) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// How many bytes the kernel still holds that the peer has not acknowledged (tcp(7), SIOCOUTQ).
///
/// # Errors
/// The kernel's.
pub fn unsent_bytes(socket: impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed and open; TIOCOUTQ, which SIOCOUTQ equals, writes one c_int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_was_acknowledged_is_not_unsent() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut sender = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut receiver, _) = listener.accept().expect("accepts");
        sender.write_all(b"hello").expect("written");
        receiver.read_exact(&mut [0; 5]).expect("read");
        while unsent_bytes(&sender).expect("a socket") > 0 {
            std::thread::yield_now();
        }
    }
}
