//! What runs inside a lab guest and carries out the lab's orders (`vmtide-guest`).
//!
//! In: one [`Request`] as a JSON line on each vsock connection, which the guest itself makes to CID 2, port
//! [`PORT`]. Out: an empty line at once, then one [`Reply`] as a JSON line. The guest always has one connection waiting, so
//! the lab needs no second way in, and a command that takes long does not delay the next.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use vsock::{VMADDR_CID_HOST, VsockStream};

/// Next to the bridge's 7670.
pub const PORT: u32 = 7671;

/// One order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a shell line to its end.
    Run {
        /// The line.
        line: String,
    },
    /// Read a file without starting a process.
    Read {
        /// The file.
        path: String,
        /// Bytes to skip.
        from: u64,
    },
    /// Write an executable file; its content follows the line.
    Put {
        /// The file.
        path: String,
        /// Length of the content.
        bytes: u64,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    /// Exit code; −1 when a signal ended it or it could not be started.
    pub code: i32,
    /// Standard output, or the file's text.
    pub stdout: String,
    /// Standard error, or what went wrong.
    pub stderr: String,
}

/// Serves until the guest goes down.
pub fn serve() -> ! {
    loop {
        let Ok(stream) = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, PORT) else {
            // The lab is not there yet, or there is no vsock at all (the accelerator's proof).
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        // Blocks until the lab wants something; only then is the next connection made.
        if reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            thread::spawn(move || {
                // Tells the lab that the order arrived: without this line it may ask again.
                let _ = reader.get_mut().write_all(b"\n");
                let reply = answer(&line, &mut reader).unwrap_or_else(|error| Reply::failed(&error));
                // A lab that stopped waiting is no concern of the guest's.
                let _ = send(&reply, reader.get_mut());
            });
        }
    }
}

/// Newer kernels put a write of more than 32 KiB into several buffers, of which vhost-device-vsock 0.3.0 forwards
/// only the first.
const WRITE_BYTES: usize = 16 << 10;

fn send(reply: &Reply, stream: &mut impl Write) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    line.chunks(WRITE_BYTES).try_for_each(|chunk| stream.write_all(chunk))
}

impl Reply {
    fn failed(error: &io::Error) -> Self {
        Self { code: -1, stdout: String::new(), stderr: error.to_string() }
    }

    fn text(stdout: String) -> Self {
        Self { code: 0, stdout, stderr: String::new() }
    }
}

fn answer(line: &str, content: &mut impl Read) -> io::Result<Reply> {
    match serde_json::from_str(line)? {
        Request::Run { line } => run(&line),
        Request::Read { path, from } => {
            let mut file = fs::File::open(path)?;
            file.seek(SeekFrom::Start(from))?;
            io::read_to_string(file).map(Reply::text)
        }
        Request::Put { path, bytes } => {
            let mut file = fs::File::create(path)?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
            io::copy(&mut content.take(bytes), &mut file)?;
            Ok(Reply::text(String::new()))
        }
    }
}

/// The control program cannot be killed for lack of memory; what it starts can.
fn run(line: &str) -> io::Result<Reply> {
    let script = format!("echo 0 >/proc/self/oom_score_adj\n{line}");
    let output = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::null()).output()?;
    Ok(Reply {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
