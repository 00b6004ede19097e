//! Labelled pictures in Parquet files: however they were written, the same pictures and labels are read; any other file
//! is an error in words.

use super::archives::{indexed_as, storage};
use ::parquet::basic::{Compression, Encoding};
use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::file::metadata::KeyValue;
use ::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use ::parquet::file::writer::SerializedFileWriter;
use ::parquet::schema::parser::parse_message_type;
use ::parquet::schema::types::ColumnPath;
use feedline::read::pack::{PackOptions, pack_list};
use feedline::read::{Folder, ImageList, Stop, read_sample};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// As `datasets` nests them.
const NESTED: &str = "message m { optional group image { optional binary bytes; optional binary path (UTF8); }
    optional int64 label; }";
const FLAT: &str = "message m { required int32 cls; required binary jpg; }";
const NAMES: &str = r#"{"info": {"features": {"image": {"_type": "Image"},
    "label": {"names": ["cat", "hot dog", "猫"], "_type": "ClassLabel"}}}}"#;

type Samples = Vec<(i64, Vec<u8>)>;

/// Pictures that compress in part, some of no bytes, some twice.
fn samples(count: usize) -> Samples {
    let picture = |i: usize| -> Vec<u8> {
        let noise = |at: usize| (at.wrapping_mul(2_654_435_761) >> 9) as u8;
        (0..i * 97 % 3001).map(|at| if at % 3 == 0 { i as u8 } else { noise(at + i) }).collect()
    };
    (0..count).map(|i| ((i * 7 % 3) as i64, picture(if i % 10 == 9 { 4 } else { i }))).collect()
}

/// A file with these rows, in groups of `group_rows` rows; some columns have no value in some rows.
fn written(
    schema: &str,
    samples: &Samples,
    group_rows: usize,
    properties: WriterProperties,
    null: &[(usize, &str)],
) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let names: Vec<(String, i16)> = schema
        .get_fields()
        .iter()
        .flat_map(|field| match field.is_group() {
            true => field.get_fields().iter().map(|inner| (inner.name().to_owned(), 2)).collect(),
            false => vec![(field.name().to_owned(), i16::from(field.is_optional()))],
        })
        .collect();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for (number, group) in samples.chunks(group_rows).enumerate() {
        let mut rows = writer.next_row_group().unwrap();
        let mut columns = names.iter();
        while let Some(mut column) = rows.next_column().unwrap() {
            let (name, present) = columns.next().unwrap();
            let is_there = |at: &usize| !null.contains(&(number * group_rows + at, name));
            let levels: Vec<i16> =
                (0..group.len()).map(|at| if is_there(&at) { *present } else { present - 1 }).collect();
            let levels = (*present > 0).then_some(&*levels);
            let there = (0..group.len()).filter(is_there).map(|at| &group[at]);
            match column.untyped() {
                ColumnWriter::Int32ColumnWriter(column) => {
                    column.write_batch(&there.map(|(label, _)| *label as i32).collect::<Vec<_>>(), levels, None)
                }
                ColumnWriter::Int64ColumnWriter(column) => {
                    column.write_batch(&there.map(|(label, _)| *label).collect::<Vec<_>>(), levels, None)
                }
                ColumnWriter::ByteArrayColumnWriter(column) => {
                    let bytes = there.map(|(_, bytes)| if name == "path" { b"1.jpg".to_vec() } else { bytes.clone() });
                    column.write_batch(&bytes.map(ByteArray::from).collect::<Vec<_>>(), levels, None)
                }
                ColumnWriter::DoubleColumnWriter(column) => {
                    column.write_batch(&there.map(|(label, _)| *label as f64).collect::<Vec<_>>(), levels, None)
                }
                _ => panic!("a column of another kind"),
            }
            .unwrap();
            column.close().unwrap();
        }
        rows.close().unwrap();
    }
    writer.into_inner().unwrap()
}

fn properties(compression: Compression) -> WriterPropertiesBuilder {
    WriterProperties::builder().set_compression(compression).set_write_batch_size(3)
}

fn with_names(builder: WriterPropertiesBuilder) -> WriterProperties {
    builder.set_key_value_metadata(Some(vec![KeyValue::new("huggingface".into(), NAMES.to_owned())])).build()
}

/// The content of the archives at a path, in the order of the list.
fn read(path: &Path, kept: &Path) -> feedline::Result<(Vec<String>, Samples)> {
    let list = ImageList::from_folder(Folder::open(path, &storage(kept))?, "x", None)?;
    let stored = list.stored.as_ref().unwrap();
    let one = |(sample, entry): (u64, &feedline::read::ImageEntry)| {
        let mut bytes = vec![7; 3];
        read_sample(list.stored.as_ref(), sample, &entry.path, &Stop::default(), &mut bytes)?;
        assert_eq!(stored.size_bytes(sample), bytes.len() as u64);
        Ok((i64::from(entry.class), bytes))
    };
    let samples = (0u64..).zip(&list.entries).map(one).collect::<feedline::Result<Samples>>()?;
    Ok((list.classes.clone(), samples))
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parquet")
}

#[test]
fn pictures_labels_and_class_names_are_those_that_pyarrow_wrote() {
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let kept = tempfile::tempdir().unwrap();
    let files = expected["files"].as_object().unwrap();
    assert_eq!(files.len(), 6);
    for (name, samples) in files {
        // The second time from the cached index.
        for _ in 0..2 {
            let (classes, found) = read(&fixtures().join(name), kept.path()).unwrap();
            assert_eq!(serde_json::json!(classes), expected["classes"], "{name}");
            let hex =
                |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect() };
            let found: Vec<_> = found.iter().map(|(label, bytes)| serde_json::json!([label, hex(bytes)])).collect();
            assert_eq!(serde_json::json!(found), *samples, "{name}");
        }
    }
}

#[test]
fn every_way_to_write_a_file_gives_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    let expect = samples(61);
    let mut round = 0;
    for compression in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(Default::default()),
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for (dictionary_bytes, page_rows, group_rows) in
                [(1 << 20, 1 << 20, 100), (1 << 20, 7, 100), (9000, 7, 23), (0, 1 << 20, 23), (0, 5, 100), (0, 1, 1)]
            {
                for schema in [NESTED, FLAT] {
                    let builder = properties(compression)
                        .set_writer_version(version)
                        .set_dictionary_enabled(dictionary_bytes > 0)
                        .set_dictionary_page_size_limit(dictionary_bytes.max(1))
                        .set_data_page_row_count_limit(page_rows)
                        .set_offset_index_disabled(round % 2 == 0)
                        .set_statistics_enabled([EnabledStatistics::None, EnabledStatistics::Page][round % 2])
                        .set_write_page_header_statistics(round % 4 == 1)
                        .set_column_encoding(ColumnPath::from("jpg"), Encoding::PLAIN)
                        .set_column_encoding(ColumnPath::new(vec!["image".into(), "bytes".into()]), Encoding::PLAIN);
                    let properties = if schema == NESTED { with_names(builder) } else { builder.build() };
                    fs::write(&path, written(schema, &expect, group_rows, properties, &[])).unwrap();
                    let kept = dir.path().join(round.to_string());
                    let (classes, found) = read(&path, &kept).unwrap();
                    let what = (compression, version, dictionary_bytes, page_rows, group_rows, schema);
                    assert!(found == expect, "{what:?}");
                    assert_eq!(classes, if schema == NESTED { ["cat", "hot dog", "猫"] } else { ["0", "1", "2"] });
                    assert!(read(&path, &kept).unwrap().1 == expect, "kept: {what:?}");
                    round += 1;
                }
            }
        }
    }
}

#[test]
fn samples_of_a_page_are_read_once_and_equal_in_any_order_and_any_company() {
    let dir = tempfile::tempdir().unwrap();
    let expect = samples(50);
    for (name, compression) in [("a", Compression::SNAPPY), ("b", Compression::UNCOMPRESSED)] {
        let properties = properties(compression).set_data_page_row_count_limit(10).build();
        let bytes = written(FLAT, &expect, 25, properties, &[]);
        fs::write(dir.path().join(format!("{name}.parquet")), bytes).unwrap();
    }
    let list = ImageList::from_folder(Folder::open(dir.path(), &storage(dir.path())).unwrap(), "x", None).unwrap();
    let stored = list.stored.unwrap();
    let expect = |sample: u64| &expect[sample as usize % 50].1;
    for samples in [vec![0, 1, 2, 2, 99, 0, 49, 50, 51, 3], vec![97, 4, 60, 4], (0..100).collect(), vec![]] {
        let mut into = vec![vec![1; 9]; samples.len()];
        let results = stored.read_many(&samples, &Stop::default(), &mut into);
        assert!(results.len() == samples.len() && results.iter().all(Result::is_ok), "{results:?}");
        for (sample, bytes) in samples.iter().zip(&into) {
            assert!(bytes == expect(*sample), "{sample}");
        }
    }
    assert!(stored.is_near(0, 1) && stored.is_near(50, 51));
    let mut start = Vec::new();
    stored.read_start(20, 100, &mut start).unwrap();
    assert!(start == expect(20)[..100]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stored = &stored;
            scope.spawn(move || {
                for at in 0..300u64 {
                    let (sample, mut bytes) = ((at * (2 * thread + 1)) % 100, Vec::new());
                    stored.read_into(sample, &Stop::default(), &mut bytes).unwrap();
                    assert!(bytes == *expect(sample), "{sample}");
                }
            });
        }
    });
    // Another file in its place is an error, and the page in memory is not used.
    let mut bytes = Vec::new();
    stored.read_into(1, &Stop::default(), &mut bytes).unwrap();
    fs::write(dir.path().join("a.parquet"), b"something else").unwrap();
    assert!(stored.read_into(40, &Stop::default(), &mut bytes).is_err());
    assert!(stored.read_into(1, &Stop::default(), &mut bytes).is_err());
}

#[test]
fn several_files_share_their_class_names_and_a_file_beside_them_decides() {
    let dir = tempfile::tempdir().unwrap();
    let expect = samples(40);
    let (data, kept) = (dir.path().join("train"), dir.path().join("kept"));
    fs::create_dir(&data).unwrap();
    for (number, part) in expect.chunks(10).enumerate() {
        let bytes = written(NESTED, &part.to_vec(), 4, with_names(properties(Compression::SNAPPY)), &[]);
        fs::write(data.join(format!("train-{number:05}-of-00004.parquet")), bytes).unwrap();
    }
    let (classes, found) = read(&data, &kept).unwrap();
    assert_eq!(classes, ["cat", "hot dog", "猫"]);
    assert!(found == expect);
    let (classes, found) = read(&data.join("train-{00001..00002}-of-00004.parquet"), &kept).unwrap();
    assert_eq!(classes, ["cat", "hot dog", "猫"]);
    assert!(found == expect[10..30]);
    let list = ImageList::train(Folder::open(dir.path(), &storage(&kept)).unwrap()).unwrap();
    assert_eq!((list.entries.len(), &*list.classes[1]), (40, "hot dog"));

    // Packed, they are a data set of their own.
    let out = dir.path().join("packed");
    let options = PackOptions { shard_bytes: 20_000, threads: 2, progress: &|_, _| () };
    assert_eq!(pack_list(&list, &out, options).unwrap().files, 40);
    assert!(read(&out, &kept).unwrap() == (list.classes, expect.clone()));

    fs::write(data.join("classes.txt"), "a\nb\nc\n").unwrap();
    assert_eq!(read(&data, &kept).unwrap().0, ["a", "b", "c"]);
    fs::remove_file(data.join("classes.txt")).unwrap();
    let other = NAMES.replace("cat", "dog");
    let metadata = vec![KeyValue::new("huggingface".into(), other)];
    let properties = properties(Compression::SNAPPY).set_key_value_metadata(Some(metadata)).build();
    fs::write(data.join("zzz.parquet"), written(NESTED, &expect, 4, properties, &[])).unwrap();
    let error = read(&data, &kept).unwrap_err().to_string();
    assert!(error.contains("classes.txt is in it, and in"), "{error}");
}

#[test]
fn a_column_that_is_alone_holds_files_of_any_kind() {
    let dir = tempfile::tempdir().unwrap();
    let expect: Vec<&[u8]> = vec![b"\x93NUMPY one", b"\x89PNG two", b"\xff\xd8\xff three", b"four", b""];
    let rows: Samples = expect.iter().map(|bytes| (0, bytes.to_vec())).collect();
    for (schema, compression) in [
        ("message m { required binary array; }", Compression::UNCOMPRESSED),
        ("message m { optional binary array; }", Compression::SNAPPY),
        (
            "message m { optional group image { optional binary bytes; optional binary path (UTF8); } }",
            Compression::SNAPPY,
        ),
    ] {
        let path = dir.path().join("x.parquet");
        fs::write(&path, written(schema, &rows, 2, properties(compression).build(), &[])).unwrap();
        let members = indexed_as("x.parquet", &fs::read(&path).unwrap()).unwrap();
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["0000000.npy", "0000001.png", "0000002.jpg", "0000003.bin", "0000004.bin"]);
        assert!(members.iter().all(|member| member.class.is_none()));
        for (name, expect) in names.iter().zip(&expect) {
            let file = path.join(name);
            let (_, stored) = feedline::read::open_file(&file, &storage(&dir.path().join("kept"))).unwrap().unwrap();
            assert_eq!(stored.read_whole().unwrap(), *expect, "{name}");
        }
    }
    // Beside other columns its meaning is unknown.
    let schema = "message m { required binary array; required binary name (UTF8); }";
    let bytes = written(schema, &rows, 2, properties(Compression::SNAPPY).build(), &[]);
    let error = indexed_as("x.parquet", &bytes).unwrap_err();
    assert!(error.contains("its columns are array: bytes, name: text"), "{error}");
}

#[test]
fn a_parquet_file_beside_pictures_or_archives_is_no_archive() {
    let dir = tempfile::tempdir().unwrap();
    for class in ["cat", "dog"] {
        fs::create_dir_all(dir.path().join("train").join(class)).unwrap();
        fs::write(dir.path().join("train").join(class).join("1.jpg"), class).unwrap();
    }
    let table = written(FLAT, &samples(3), 4, properties(Compression::SNAPPY).build(), &[]);
    for place in ["metadata.parquet", "train/metadata.parquet"] {
        fs::write(dir.path().join(place), &table).unwrap();
    }
    let list = ImageList::train(Folder::open(dir.path(), &storage(dir.path())).unwrap()).unwrap();
    assert_eq!((list.classes, list.entries.len()), (vec!["cat".to_owned(), "dog".to_owned()], 2));
    // The same if it is opened as a source, and with archives in place of pictures.
    let url = PathBuf::from(format!("file://{}", dir.path().display()));
    assert_eq!(ImageList::train(Folder::open(&url, &storage(dir.path())).unwrap()).unwrap().entries.len(), 2);
    let out = tempfile::tempdir().unwrap();
    let options = PackOptions { shard_bytes: 1 << 20, threads: 1, progress: &|_, _| () };
    pack_list(&list_of(dir.path()), &out.path().join("train"), options).unwrap();
    fs::write(out.path().join("train/000000.parquet"), &table).unwrap();
    let list = ImageList::train(Folder::open(out.path(), &storage(dir.path())).unwrap()).unwrap();
    assert_eq!(list.entries.len(), 2);
}

fn list_of(dir: &Path) -> ImageList {
    ImageList::from_folder(dir.join("train").as_path(), "train", None).unwrap()
}

#[test]
fn files_without_pictures_or_labels_are_refused_in_words() {
    let bytes = |schema: &str, null: &[(usize, &str)]| {
        written(schema, &samples(9), 4, properties(Compression::SNAPPY).build(), null)
    };
    let refused = |bytes: &[u8], words: &[&str]| {
        let text = indexed_as("x.parquet", bytes).unwrap_err();
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    };
    assert_eq!(indexed_as("x.parquet", &bytes(NESTED, &[])).unwrap().len(), 9);
    refused(&bytes(NESTED, &[(6, "bytes")]), &["row 6 has no picture"]);
    refused(&bytes(NESTED, &[(8, "label")]), &["row 8 has no label"]);
    assert!(indexed_as("x.parquet", &bytes(NESTED, &[(3, "path")])).is_ok());
    for (schema, words) in [
        ("message m { required int64 label; }", &["its columns are label: whole numbers; one of bytes"][..]),
        ("message m { required binary image; required double x; }", &["image: bytes", "its label"]),
        ("message m { required binary image (UTF8); required int32 label; }", &["image: text"]),
        ("message m { required binary a; required binary b; required int32 label; }", &["a: bytes, b: bytes"]),
        ("message m { required binary jpg; required int32 a; required int32 b; }", &["a: whole numbers, b: whole"]),
        ("message m { required binary jpg; required int64 t (TIMESTAMP_MILLIS); }", &["t: something else"]),
        ("message m { required binary jpg; required int64 t (TIMESTAMP(NANOS,true)); }", &["t: something else"]),
    ] {
        refused(&bytes(schema, &[]), words);
    }
    for schema in [
        "message m { required binary other; required binary img; required int32 a; required int32 fine_label; }",
        "message m { required binary only; required int32 only_one (INT_16); }",
        "message m { optional group x { optional binary bytes; } required binary other; optional int64 y; }",
    ] {
        assert_eq!(indexed_as("x.parquet", &bytes(schema, &[])).unwrap().len(), 9, "{schema}");
    }
    for label in [-1, 1 << 32] {
        let samples = vec![(0, vec![1]), (label, vec![2])];
        let bytes = written(NESTED, &samples, 4, properties(Compression::SNAPPY).build(), &[]);
        refused(&bytes, &["row 1: its label", "negative or too large"]);
    }
    let delta = properties(Compression::SNAPPY)
        .set_dictionary_enabled(false)
        .set_column_encoding(ColumnPath::from("jpg"), Encoding::DELTA_BYTE_ARRAY);
    refused(&written(FLAT, &samples(9), 4, delta.build(), &[]), &["pictures are written in the encoding 7"]);
    let names = NAMES.replace("hot dog", " ");
    let metadata = vec![KeyValue::new("huggingface".into(), names)];
    let blank = properties(Compression::SNAPPY).set_key_value_metadata(Some(metadata)).build();
    refused(&written(NESTED, &samples(9), 4, blank, &[]), &["class 1 is blank"]);
    refused(&written(FLAT, &Vec::new(), 4, properties(Compression::SNAPPY).build(), &[]), &["no file in it"]);
    refused(&nested(20_000), &["nested too deeply"]);
    for none in [&b""[..], b"PAR1", b"PAR1PAR1", b"PAR1\0\0\0\0PAR1", &[7; 4096]] {
        refused(none, &["x.parquet"]);
    }
}

/// A file whose only column is nested in `depth` groups.
fn nested(depth: usize) -> Vec<u8> {
    let mut footer = vec![0x15, 2, 0x19, 0xfc]; // a version, and a list of structs with their number
    let mut count = depth + 2;
    while count > 0x7f {
        footer.push(count as u8 | 0x80);
        count >>= 7;
    }
    footer.push(count as u8);
    footer.extend([0x48, 1, b'm', 0x15, 2, 0]);
    (0..depth).for_each(|_| footer.extend([0x35, 2, 0x18, 1, b'g', 0x15, 2, 0]));
    footer.extend([0x15, 2, 0x25, 2, 0x18, 1, b'x', 0, 0x16, 0, 0x19, 0x0c, 0]);
    [b"PAR1", &*footer, &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat()
}

/// Indexes the bytes and reads all of it: an answer or an error.
fn read_all(dir: &Path, bytes: &[u8]) -> Result<Samples, String> {
    fs::write(dir.join("x.parquet"), bytes).unwrap();
    let folder = Folder::open(&dir.join("x.parquet"), &storage(&dir.join("kept"))).map_err(|e| e.to_string())?;
    let list = ImageList::from_folder(folder, "x", None).map_err(|e| e.to_string())?;
    let stored = list.stored.as_ref().unwrap();
    let one = |(sample, entry): (u64, &feedline::read::ImageEntry)| {
        let mut bytes = Vec::new();
        stored.read_into(sample, &Stop::default(), &mut bytes).map_err(|e| e.to_string())?;
        Ok((i64::from(entry.class), bytes))
    };
    (0u64..).zip(&list.entries).map(one).collect()
}

#[test]
fn damaged_files_are_refused_in_words_or_read_and_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let expect = samples(23);
    let mut refused = 0;
    for (compression, dictionary, version) in [
        (Compression::SNAPPY, true, WriterVersion::PARQUET_1_0),
        (Compression::UNCOMPRESSED, false, WriterVersion::PARQUET_1_0),
        (Compression::ZSTD(Default::default()), false, WriterVersion::PARQUET_2_0),
    ] {
        let builder = properties(compression)
            .set_writer_version(version)
            .set_dictionary_enabled(dictionary)
            .set_column_encoding(ColumnPath::new(vec!["image".into(), "bytes".into()]), Encoding::PLAIN)
            .set_data_page_row_count_limit(5);
        let whole = written(NESTED, &expect, 12, with_names(builder), &[]);
        assert!(read_all(dir.path(), &whole).unwrap() == expect);
        let footer = whole.len() - 8 - u32::from_le_bytes(*whole[whole.len() - 8..].first_chunk().unwrap()) as usize;
        for end in (0..footer).step_by(211).chain(footer..whole.len()) {
            assert!(read_all(dir.path(), &whole[..end]).is_err(), "cut at {end}");
        }
        // Each byte of the footer, and enough of the rest to include headers, levels and sizes.
        for at in (0..footer).step_by(13).chain(footer..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= [0x01, 0x80, 0xff, 0x10][at % 4];
            refused += usize::from(read_all(dir.path(), &bytes).is_err());
        }
    }
    assert!(refused > 1000, "{refused}");
}
