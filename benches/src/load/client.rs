//! A connection that is kept.

use super::{Sample, Times};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// HTTP/1.1 over one connection, made anew when it breaks.
pub struct Client {
    address: SocketAddr,
    path: String,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Nothing is sent yet.
    pub fn new(address: SocketAddr, path: &str) -> Self {
        Self {
            address,
            path: path.to_owned(),
            stream: None,
        }
    }

    /// Sends an image, and waits for its answer; `due` is when it should have been sent. Status 0: the connection broke.
    pub fn ask(&mut self, image: &[u8], due: Instant) -> Sample {
        let (status, times) = self.attempt(image).unwrap_or_else(|_| {
            self.stream = None;
            (0, None)
        });
        Sample {
            latency: due.elapsed(),
            status,
            times,
        }
    }

    fn attempt(&mut self, image: &[u8]) -> io::Result<(u16, Option<Times>)> {
        let Self {
            address,
            path,
            stream,
        } = self;
        let stream = match stream {
            Some(stream) => stream,
            None => {
                let connected = TcpStream::connect(*address)?;
                connected.set_nodelay(true)?;
                connected.set_read_timeout(Some(Duration::from_secs(60)))?;
                stream.insert(BufReader::new(connected))
            }
        };
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: load\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n",
            image.len()
        );
        stream
            .get_mut()
            .write_all(&[head.as_bytes(), image].concat())?;
        read(stream)
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> io::Result<(u16, Option<Times>)> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(bad)?;
    let (mut length, mut times) = (0, None);
    loop {
        line.clear();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(|_| bad())?,
            "server-timing" => times = Times::parse(value),
            _ => {}
        }
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    Ok((status, times))
}
