//! The body that carries engine messages from one replica to another: who speaks to whom, in which group, and
//! any number of opaque frames in order.
//!
//! ```text
//! version u8 = 1, cluster id 16 bytes, from u64, to u64, then per frame: length u32, bytes   (little-endian)
//! ```

use crate::meta::{ClusterId, NodeId};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 1 + 16 + 8 + 8;

/// Who speaks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The group.
    pub cluster: ClusterId,
    /// The sender's data directory.
    pub from: NodeId,
    /// The data directory it means.
    pub to: NodeId,
}

/// The body for `frames`.
pub fn pack(route: &Route, frames: &[Vec<u8>]) -> Vec<u8> {
    let size = HEAD_BYTES + frames.iter().map(|frame| 4 + frame.len()).sum::<usize>();
    let mut body = Vec::with_capacity(size);
    body.push(VERSION);
    body.extend_from_slice(&route.cluster);
    body.extend_from_slice(&route.from.to_le_bytes());
    body.extend_from_slice(&route.to.to_le_bytes());
    for frame in frames {
        body.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        body.extend_from_slice(frame);
    }
    body
}

/// The route and frames of a body; the text says what is wrong with a body that is none.
pub fn unpack(body: &[u8]) -> Result<(Route, Vec<Vec<u8>>), String> {
    let Some((head, mut rest)) = body.split_at_checked(HEAD_BYTES) else {
        return Err(format!("{} bytes where a head has {HEAD_BYTES}", body.len()));
    };
    if head[0] != VERSION {
        return Err(format!("frames of version {}, this binary reads {VERSION}", head[0]));
    }
    let route = Route {
        cluster: head[1..17].try_into().expect("sixteen bytes"),
        from: u64::from_le_bytes(head[17..25].try_into().expect("eight bytes")),
        to: u64::from_le_bytes(head[25..33].try_into().expect("eight bytes")),
    };
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let Some((length, after)) = rest.split_at_checked(4) else {
            return Err("a torn frame length".into());
        };
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let Some((frame, after)) = after.split_at_checked(length) else {
            return Err(format!("a frame of {length} bytes with {} left", after.len()));
        };
        frames.push(frame.to_vec());
        rest = after;
    }
    Ok((route, frames))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bodies_read_back(
            cluster in any::<[u8; 16]>(), from in any::<u64>(), to in any::<u64>(),
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..8),
        ) {
            let route = Route { cluster, from, to };
            prop_assert_eq!(unpack(&pack(&route, &frames)), Ok((route, frames)));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn a_torn_body_is_refused() {
        let route = Route { cluster: [1; 16], from: 2, to: 3 };
        let body = pack(&route, &[vec![1, 2, 3], vec![4]]);
        assert!(unpack(&body[..body.len() - 1]).is_err() && unpack(&body[..10]).is_err());
    }
}
