//! Tests of pickles: what Python wrote is read as it was meant, and nothing else is.

use super::*;
use std::fs;
use std::path::PathBuf;

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/pickles");
    fs::read(folder.join(name)).unwrap()
}

fn fixtures() -> Vec<Vec<u8>> {
    [1, 2]
        .iter()
        .flat_map(|numpy| (2..=5).map(move |protocol| fixture(&format!("numpy{numpy}_protocol{protocol}.pkl"))))
        .collect()
}

#[test]
fn pickles_of_both_numpys_and_of_four_protocols_say_the_same() {
    let expected: Value = serde_json::from_slice(&fixture("expected.json")).unwrap();
    for bytes in fixtures() {
        assert_eq!(read(&bytes).unwrap(), expected);
    }
}

/// A pickle of protocol 2 of these opcodes.
fn pickle(opcodes: &[u8]) -> Vec<u8> {
    [b"\x80\x02", opcodes].concat()
}

#[test]
fn what_would_be_executed_is_refused() {
    let cases: &[(&[u8], &str)] = &[
        (b"cposix\nsystem\nX\x02\0\0\0ls\x85R.", "byte 2 of the pickle: it asks for posix.system"),
        (b"cbuiltins\neval\n.", "builtins.eval"),
        (b"\x8c\x02os\x8c\x06system\x93.", "os.system"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
        (b"c__builtin__\ngetattr\n.", "getattr"),
        (b"(S'ls'\nios\nsystem\n.", "protocol 0"),
        (b"(ios\nsystem\n.", "INST (i)"),
        (b"(o.", "OBJ (o)"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ (0x81)"),
        (b"\x92.", "NEWOBJ_EX"),
        (b"K\x01Q.", "a persistent id (Q)"),
        (b"\x82\x01.", "an extension"),
        (b"\x97.", "a buffer outside"),
        (b"\x8f.", "a set"),
        (b"\xff.", "an unknown opcode (0xff)"),
        // Known names, but with what they are not called with.
        (b"cnumpy\ndtype\n(X\x02\0\0\0M8\x89\x88tR.", "dtype \"M8\""),
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0zip\x86R.", "Encode has arguments"),
        (b"cnumpy\nndarray\n)R.", "NdArray has arguments"),
        (b"K\x01)R.", "calls what is no name"),
    ];
    for (opcodes, problem) in cases {
        let error = read(&pickle(opcodes)).unwrap_err();
        assert!(error.contains(problem), "{error}, not {problem}");
    }
}

#[test]
fn what_is_broken_or_grows_is_refused() {
    let growing = |times: usize| {
        let mut opcodes = b"]q\0(K\x01K\x01K\x01K\x01e".to_vec();
        for level in 1..=times as u8 {
            opcodes.extend([b']', b'q', level, b'(']);
            opcodes.extend([b'h', level - 1].repeat(10));
            opcodes.push(b'e');
        }
        [opcodes, b".".to_vec()].concat()
    };
    let encoded = [
        &b"(X\x40\0\0\0"[..],
        &[b'a'; 64],
        b"q\x01",
        &b"c_codecs\nencode\nh\x01X\x06\0\0\0latin1\x86R".repeat(200),
        b"l.",
    ]
    .concat();
    let deep = [vec![b']'; 100], vec![b'a'; 99], b".".to_vec()].concat();
    let cases: &[(&[u8], &str)] = &[
        (&growing(9), "many times its size"),
        (&encoded, "many times its size"),
        (&deep, "nested deeper than 32"),
        (b"]q\0h\0a.", "nested deeper than 32"),
        (b"", "ends too early"),
        (b"K\x01", "ends too early"),
        (b".", "stack that is empty"),
        (b"(.", "stack that is empty"),
        (b"t.", "no mark"),
        (b"]]K\x01s.", "no dictionary"),
        (b"}(K\x01u.", "a key has no value"),
        (b"}K\x01K\x02s.", "no text"),
        (b"K\x01K\x02a.", "no list"),
        (b"h\x07.", "value 7, which was never kept"),
        (b"\x8a\x09123456789.", "integer of 9 bytes"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", "ends too early"),
        (b"X\x01\0\0\0\xff.", "no UTF-8"),
        (b"C\x01a.", "bytes where a text"),
        (b"cnumpy\ndtype\n.", "a type where a value"),
    ];
    for (opcodes, problem) in cases {
        let error = read(&pickle(opcodes)).unwrap_err();
        assert!(error.contains(problem), "{error}, not {problem}");
    }
    assert!(read(b"\x80\x06N.").unwrap_err().contains("protocol 6"));
    // A list that is used again and again is fine as long as it stays small.
    assert_eq!(read(&pickle(&growing(1))).unwrap(), Value::from(vec![vec![1; 4]; 10]));
}

#[test]
fn damage_at_any_place_is_no_panic() {
    for bytes in fixtures() {
        for at in 0..bytes.len() {
            assert!(read(&bytes[..at]).is_err());
            for change in [0x01, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= change;
                let _ = read(&damaged);
            }
        }
    }
}
