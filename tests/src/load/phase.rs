//! The phases of a workload and how they are written: `idle:30s`, `anon=400M:40s`, `anon=100M+file=200M:500ms`,
//! `anon=300M/100M:60s` (300M are held, 100M of them are worked on), `write=200M:30s`, `cpu=4:60s` (four threads).

use std::time::Duration;

const MOST_THREADS: u64 = 256;

/// One phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// As it was written.
    pub text: String,
    /// Anonymous memory that is held.
    pub anon_bytes: u64,
    /// The part of it that is worked on; the rest is filled once and left cold.
    pub hot_bytes: u64,
    /// File working set.
    pub file_bytes: u64,
    /// The part of the device that is written.
    pub write_bytes: u64,
    /// Threads that only take CPU time; then there is nothing else.
    pub cpu_threads: u64,
    /// How long it lasts.
    pub duration: Duration,
}

impl Phase {
    /// Whether the phase only waits.
    pub fn is_idle(&self) -> bool {
        self.anon_bytes == 0 && self.file_bytes == 0 && self.write_bytes == 0 && self.cpu_threads == 0
    }
}

/// Reads phases that are separated by commas.
///
/// # Errors
/// Names the phase that is not understood and what is allowed.
pub fn parse_phases(text: &str) -> Result<Vec<Phase>, String> {
    text.split(',').map(parse_phase).collect()
}

fn parse_phase(text: &str) -> Result<Phase, String> {
    let wrong = |why: &str| {
        format!(
            "`{text}`: {why}; a phase is idle:30s, anon=400M:40s, anon=400M/100M:40s, file=200M:30s, write=200M:30s, cpu=4:30s or \
                 several with a +, such as anon=1M+file=2M:5s"
        )
    };
    let (work, duration) = text.split_once(':').ok_or_else(|| wrong("no duration"))?;
    let duration = parse_duration(duration).ok_or_else(|| wrong("the duration is a number with s or ms"))?;
    let mut phase = Phase {
        text: text.to_owned(),
        anon_bytes: 0,
        hot_bytes: 0,
        file_bytes: 0,
        write_bytes: 0,
        cpu_threads: 0,
        duration,
    };
    if work == "idle" {
        return Ok(phase);
    }
    if let Some(threads) = work.strip_prefix("cpu=") {
        let threads = threads.parse().ok().filter(|threads| (1..=MOST_THREADS).contains(threads));
        phase.cpu_threads = threads.ok_or_else(|| wrong("cpu has 1 to 256 threads and nothing beside it"))?;
        return Ok(phase);
    }
    for part in work.split('+') {
        let (kind, size) = part.split_once('=').ok_or_else(|| wrong("no size"))?;
        let (size, hot) = size.split_once('/').map_or((size, None), |(held, hot)| (held, Some(hot)));
        let sized = |size| parse_size(size).ok_or_else(|| wrong("the size is a number with K, M or G"));
        let bytes = sized(size)?;
        match (kind, hot) {
            ("anon", hot) => {
                phase.anon_bytes = bytes;
                phase.hot_bytes = hot.map_or(Ok(bytes), sized)?;
                if phase.hot_bytes > bytes {
                    return Err(wrong("more is worked on than is held"));
                }
            }
            ("file" | "write", Some(_)) => return Err(wrong("only anon has a cold part")),
            ("file", None) => phase.file_bytes = bytes,
            ("write", None) => phase.write_bytes = bytes,
            _ => return Err(wrong("unknown kind")),
        }
    }
    Ok(phase)
}

fn parse_duration(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

/// Reads a size such as `400M`; the units are powers of 1024.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_read_in_order() {
        let phases = parse_phases("idle:30s,anon=400M:40s,anon=1M+file=2G:500ms").unwrap();
        assert!(phases[0].is_idle() && phases[0].duration == Duration::from_secs(30));
        assert_eq!((phases[1].anon_bytes, phases[1].file_bytes), (400 << 20, 0));
        assert_eq!((phases[2].anon_bytes, phases[2].file_bytes), (1 << 20, 2 << 30));
        assert_eq!(phases[2].duration, Duration::from_millis(500));
        let cold = &parse_phases("anon=3M/1M+write=7M:1s").unwrap()[0];
        assert_eq!((cold.anon_bytes, cold.hot_bytes, cold.write_bytes), (3 << 20, 1 << 20, 7 << 20));
        assert_eq!(phases[1].hot_bytes, phases[1].anon_bytes);
    }

    #[test]
    fn a_wrong_phase_is_named() {
        for wrong in [
            "",
            "idle",
            "idle:5",
            "anon:5s",
            "anon=5:5s",
            "swap=5M:5s",
            "anon=99999999999G:1s",
            "anon=1M/2M:1s",
            "file=2M/1M:1s",
            "cpu=0:1s",
            "cpu=257:1s",
            "cpu=2+anon=1M:1s",
        ] {
            let error = parse_phases(wrong).unwrap_err();
            assert!(error.starts_with(&format!("`{wrong}`")), "{error}");
        }
    }
}
