//! A pull within a build, on its way: it is shown as a step of the build, though it has no number.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mica_builder::pull::LayerState;
use mica_fs::digest::Digest;

use crate::render;

/// How often a layer that grows is told of in a log.
const NEWS: Duration = Duration::from_secs(5);

/// An image on its way.
pub struct Pulling {
    /// What it is called: `[internal] pull busybox:latest`.
    pub title: String,
    /// When it began.
    pub begin: Instant,
    /// What stands for it in this build, where steps have digests.
    pub digest: Digest,
    /// When it began, as a timestamp.
    pub started: String,
    layers: BTreeMap<Digest, Layer>,
    order: Vec<Digest>,
}

/// A layer of it.
struct Layer {
    size: u64,
    state: LayerState,
    /// When it was last told of.
    told: Instant,
}

impl Pulling {
    /// A pull that begins.
    pub fn new(name: &str, layers: &[(Digest, u64)]) -> Self {
        let begin = Instant::now();
        let title = format!("[internal] pull {}", render::printable(name));
        let started = jiff::Timestamp::now().to_string();
        let layer = |&(digest, size): &(Digest, u64)| {
            let (state, told) = (LayerState::Queued, begin);
            (digest, Layer { size, state, told })
        };
        Self {
            digest: Digest::of(format!("{title} {started}").as_bytes()),
            title,
            begin,
            started,
            order: layers.iter().map(|(digest, _)| *digest).collect(),
            layers: layers.iter().map(layer).collect(),
        }
    }

    /// Takes in what happened to a layer; whether that is worth a line in a log.
    pub fn set(&mut self, digest: &Digest, state: LayerState) -> bool {
        let Some(layer) = self.layers.get_mut(digest) else {
            return false;
        };
        let was = std::mem::replace(&mut layer.state, state);
        let is_other = std::mem::discriminant(&was) != std::mem::discriminant(&state);
        let is_news = is_other || layer.told.elapsed() >= NEWS;
        if is_news {
            layer.told = Instant::now();
        }
        is_news
    }

    /// How it stands with a layer: `3f4a... 1.2MB / 3.4MB`.
    pub fn line(&self, digest: &Digest) -> String {
        let Some(layer) = self.layers.get(digest) else {
            return String::new();
        };
        let size = render::size(layer.size);
        let text = match layer.state {
            LayerState::Queued => format!("0B / {size}"),
            LayerState::Exists => "already exists".to_owned(),
            LayerState::Waiting => "waits for another process".to_owned(),
            LayerState::Arrived(bytes) => format!("{} / {size}", render::size(bytes)),
            LayerState::Done => format!("{size} / {size} done"),
        };
        format!("{} {text}", digest.short())
    }

    /// The lines of all layers that are being fetched.
    pub fn running(&self) -> Vec<String> {
        let is_running = |digest: &&Digest| {
            let state = self.layers.get(digest).map(|layer| layer.state);
            matches!(state, Some(LayerState::Arrived(_) | LayerState::Waiting))
        };
        let running = self.order.iter().filter(is_running);
        running.map(|digest| self.line(digest)).collect()
    }

    /// How many bytes of a layer there are, and of how many.
    pub fn bytes(&self, digest: &Digest) -> (u64, u64) {
        match self.layers.get(digest) {
            Some(Layer { size, state, .. }) => match *state {
                LayerState::Queued | LayerState::Waiting => (0, *size),
                LayerState::Arrived(bytes) => (bytes, *size),
                LayerState::Exists | LayerState::Done => (*size, *size),
            },
            None => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_few() {
        let digest = Digest::of(b"");
        let mut pulling = Pulling::new("a\u{1b}b", &[(digest, 1000)]);
        assert!(!pulling.title.contains('\u{1b}'));
        assert!(pulling.set(&digest, LayerState::Arrived(0)));
        assert!(!pulling.set(&digest, LayerState::Arrived(10)));
        assert_eq!(pulling.running(), ["e3b0c44298fc 10B / 1kB"]);
        assert_eq!(pulling.bytes(&digest), (10, 1000));
        assert!(pulling.set(&digest, LayerState::Done));
        assert_eq!(pulling.line(&digest), "e3b0c44298fc 1kB / 1kB done");
        assert!(pulling.running().is_empty());
    }
}
