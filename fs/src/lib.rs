//! Image layers as a copy-on-write filesystem.
