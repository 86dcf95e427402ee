//! A terminal for a program under test: a pseudo terminal, and a screen that obeys what the program writes.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::harness::poll;

pub struct Terminal {
    child: Child,
    controller: Option<File>,
    /// Kept open, so that its settings can still be read when the program has ended.
    device: Option<OwnedFd>,
    before: Termios,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts `command` on a screen of `rows` and `columns`.
    pub fn run(command: &mut Command, rows: u16, columns: u16) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let open = || File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let device = OwnedFd::from(open());
        resize(&controller, rows, columns);
        let before = tcgetattr(&device).unwrap();
        let [input, output, errors] = [open(), open(), open()].map(Stdio::from);
        let child = command.stdin(input).stdout(output).stderr(errors).env("TERM", "xterm-256color").spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(size(rows), size(columns), 100)));
        let controller = File::from(controller);
        let drawn = Arc::clone(&screen);
        let reader = controller.try_clone().unwrap();
        thread::spawn(move || read(reader, &drawn));
        Self { child, controller: Some(controller), device: Some(device), before, screen }
    }

    fn controller(&self) -> &File {
        self.controller.as_ref().expect("it is open")
    }

    pub fn press(&mut self, keys: &str) {
        let mut controller = self.controller();
        controller.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&mut self, rows: u16, columns: u16) {
        self.screen.lock().unwrap().set_size(size(rows), size(columns));
        resize(self.controller(), rows, columns);
        // It is the terminal's own session that the kernel would signal.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::WINCH).unwrap();
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen is as `wanted`; returns its text.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        let look = || {
            let text = self.text();
            if wanted(&text) { Ok(text) } else { Err(text) }
        };
        match poll(look) {
            Ok(text) => text,
            Err(text) => panic!("the screen stays\n{text}"),
        }
    }

    /// Closes the terminal, as when its window is closed but the program is in a session of its own; waits for the end
    /// of the program.
    #[track_caller]
    pub fn ends_when_closed(&mut self) {
        // The thread that reads ends at once, and closes its handle.
        rustix::io::ioctl_fionbio(self.controller(), true).unwrap();
        self.press("x");
        (self.controller, self.device) = (None, None);
        let ended = poll(|| self.child.try_wait().unwrap().ok_or(()));
        assert!(ended.is_ok_and(|status| status.success()), "it runs on");
    }

    /// Waits for the end of the program; the terminal must be as it was before.
    #[track_caller]
    pub fn ends_restored(&mut self) -> ExitStatus {
        let ended = poll(|| self.child.try_wait().unwrap().ok_or(()))
            .unwrap_or_else(|()| panic!("it runs on\n{}", self.text()));
        let after = tcgetattr(self.device.as_ref().unwrap()).unwrap();
        let modes = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        assert_eq!(after.local_modes & modes, self.before.local_modes & modes);
        let restored = poll(|| {
            let parser = self.screen.lock().unwrap();
            let screen = parser.screen();
            if !screen.alternate_screen() && !screen.hide_cursor() { Ok(()) } else { Err(screen.contents()) }
        });
        restored.unwrap_or_else(|text| panic!("the screen is not restored\n{text}"));
        ended
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Draws what the program writes, until the terminal is closed.
fn read(mut from: File, screen: &Mutex<vt100::Parser>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        screen.lock().unwrap().process(&bytes[..count]);
    }
}

fn resize(terminal: impl std::os::fd::AsFd, rows: u16, columns: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

fn size(cells: u16) -> NonZeroU16 {
    NonZeroU16::new(cells).unwrap()
}
