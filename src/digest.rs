//! SHA-256 (FIPS 180-4), which a result uses to name the text that ran. Written here because
//! no crate of the card's list brings it, and because forty lines cannot go out of date.

use std::sync::LazyLock;

/// The SHA-256 of `data` in hexadecimal.
pub fn sha256_hex(data: &[u8]) -> String {
    let mut state: [u32; 8] = of_primes(f64::sqrt);
    // Behind the data a single 1 bit, zeroes, and the length in bits at the end of the last block.
    let mut padded = [data, &[0x80]].concat();
    padded.resize((padded.len() + 8).next_multiple_of(64) - 8, 0);
    padded.extend((data.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks_exact(64) {
        compress(&mut state, block);
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

static ROUND: LazyLock<[u32; 64]> = LazyLock::new(|| of_primes(f64::cbrt));

fn compress(state: &mut [u32; 8], block: &[u8]) {
    let mut schedule = [0_u32; 64];
    for (word, bytes) in schedule.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    for t in 16..64 {
        let (w15, w2) = (schedule[t - 15], schedule[t - 2]);
        let s0 = w15.rotate_right(7) ^ w15.rotate_right(18) ^ (w15 >> 3);
        let s1 = w2.rotate_right(17) ^ w2.rotate_right(19) ^ (w2 >> 10);
        schedule[t] = sum([schedule[t - 16], s0, schedule[t - 7], s1]);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (constant, word) in ROUND.iter().zip(schedule) {
        let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first = sum([h, s1, choice, *constant, word]);
        let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let second = s0.wrapping_add(majority);
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(add);
    }
}

fn sum<const N: usize>(parts: [u32; N]) -> u32 {
    parts.into_iter().fold(0, u32::wrapping_add)
}

/// The standard's constants: of the roots of the first primes, the first 32 bits behind the point.
fn of_primes<const N: usize>(root: fn(f64) -> f64) -> [u32; N] {
    let mut primes = (2..).filter(|n| (2..*n).all(|d| n % d != 0));
    std::array::from_fn(|_| {
        let prime: u32 = primes.next().expect("there is always a next one");
        (root(prime.into()).fract() * 2_f64.powi(32)) as u32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_examples_come_out() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let two_blocks = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
        assert_eq!(sha256_hex(b""), empty);
        assert_eq!(sha256_hex(b"abc"), abc);
        let text = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(sha256_hex(text), two_blocks);
        let million = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(sha256_hex(&vec![b'a'; 1_000_000]), million);
    }

    #[test]
    fn lengths_around_a_block_are_padded_right() {
        let of_55 = "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318";
        let of_56 = "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a";
        let of_64 = "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb";
        for (length, digest) in [(55, of_55), (56, of_56), (64, of_64)] {
            assert_eq!(sha256_hex(&vec![b'a'; length]), digest, "{length}");
        }
    }
}
