//! Tests of drawing: the pixels of lines, text and pictures, and charts of any size.

use super::line_chart::Ticks;
use super::*;

fn pixel(canvas: &Canvas, x: u32, y: u32) -> Rgb {
    let at = 3 * (y * canvas.image.width_px + x) as usize;
    canvas.image.pixels[at..at + 3].try_into().unwrap()
}

/// Share of pixels that are not the background.
fn painted(canvas: &Canvas) -> usize {
    canvas.image.pixels.chunks_exact(3).filter(|pixel| *pixel != WHITE).count()
}

/// Keeps a picture to be looked at: FEEDLINE_PICTURES=some/folder cargo test picture
fn keep(name: &str, canvas: &Canvas) {
    if let Ok(folder) = std::env::var("FEEDLINE_PICTURES") {
        std::fs::write(std::path::Path::new(&folder).join(name), encode_png(canvas.image()).unwrap()).unwrap();
    }
}

#[test]
fn png_files_hold_the_pixels_drawn() {
    let mut canvas = Canvas::new(5, 3, [1, 2, 3]);
    canvas.fill(3, 1, 10, 10, [200, 100, 50]);
    canvas.rect(-1, -1, 3, 3, [9, 9, 9]);
    let bytes = encode_png(canvas.image()).unwrap();
    let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (5, 3, png::ColorType::Rgb));
    assert_eq!(pixels, canvas.image.pixels);
    assert_eq!(pixel(&canvas, 4, 2), [200, 100, 50]);
    assert_eq!(pixel(&canvas, 1, 0), [9, 9, 9]);
    assert_eq!(pixel(&canvas, 2, 2), [1, 2, 3]);
    assert!(encode_png(&RgbImage::default()).is_err());
}

#[test]
fn lines_are_as_thick_as_asked_and_blended_at_the_edge() {
    let mut canvas = Canvas::new(20, 9, [0; 3]);
    canvas.polyline(&[(-5.0, 4.5), (25.0, 4.5)], 2.0, false, [200; 3]);
    // Two pixels of ink over a line of pixels: half, one, half.
    assert_eq!([2, 3, 4, 5, 6].map(|y| pixel(&canvas, 10, y)[0]), [0, 100, 200, 100, 0]);
    let mut joint = Canvas::new(20, 9, [0; 3]);
    joint.polyline(&[(-5.0, 4.5), (10.0, 4.5), (10.0, 4.5), (25.0, 4.5)], 2.0, false, [200; 3]);
    assert_eq!(joint.image, canvas.image);
    let mut dashed = Canvas::new(20, 9, [0; 3]);
    dashed.polyline(&[(0.0, 4.5), (20.0, 4.5)], 2.0, true, [200; 3]);
    let row: Vec<_> = (0..20).map(|x| u8::from(pixel(&dashed, x, 4)[0] > 0)).collect();
    assert_eq!(row, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
    let mut broken = Canvas::new(20, 9, [0; 3]);
    broken.polyline(&[(0.0, 4.5), (f64::NAN, 1.0), (20.0, 4.5)], 2.0, false, [200; 3]);
    assert!(broken.image.pixels.iter().all(|&value| value == 0));
}

#[test]
fn pictures_are_enlarged_by_repeating_and_shrunk_by_averaging() {
    let image = RgbImage { width_px: 2, height_px: 2, pixels: vec![0, 0, 0, 100, 0, 0, 0, 200, 0, 0, 0, 80] };
    let mut canvas = Canvas::new(6, 6, WHITE);
    canvas.blit(&image, 1, 1, 4, 4);
    assert_eq!(pixel(&canvas, 0, 0), WHITE);
    assert_eq!(
        [(1, 1), (2, 2), (3, 2), (2, 3), (4, 4)].map(|(x, y)| pixel(&canvas, x, y)),
        [[0, 0, 0], [0, 0, 0], [100, 0, 0], [0, 200, 0], [0, 0, 80]]
    );
    canvas.blit(&image, 5, 5, 1, 1);
    assert_eq!(pixel(&canvas, 5, 5), [25, 50, 20]);
}

#[test]
fn every_character_is_drawn_somehow() {
    for (text, least) in [("A", 10), ("…", 6), ("猫", 20)] {
        let (mut flat, mut upright) = (Canvas::new(7, 16, WHITE), Canvas::new(16, 7, WHITE));
        flat.text(0, 0, text, INK);
        upright.text_upwards(0, 0, text, INK);
        assert!(painted(&flat) >= least, "{text}: {}", painted(&flat));
        assert_eq!(painted(&flat), painted(&upright), "{text}");
        for (x, y) in (0..7).flat_map(|x| (0..16).map(move |y| (x, y))) {
            assert_eq!(pixel(&flat, x, y), pixel(&upright, y, 6 - x));
        }
    }
    assert_eq!((shortened("abcdef", 6), shortened("abcdefg", 6)), ("abcdef".into(), "abcde…".into()));
}

#[test]
fn ticks_are_round_numbers() {
    let labels = |values: &[f64], count| -> Vec<String> {
        Ticks::over(values.iter().copied(), count, 0.0).labels().map(|(_, label)| label).collect()
    };
    assert_eq!(labels(&[1.0, 10.0], 10.0), ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
    assert_eq!(labels(&[0.0, 1.0], 5.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert_eq!(labels(&[-0.07, 0.11], 4.0), ["-0.05", "0.00", "0.05", "0.10"]);
    assert_eq!(labels(&[0.0, 4e-5], 4.0), ["0", "1.0e-5", "2.0e-5", "3.0e-5", "4.0e-5"]);
    assert_eq!(labels(&[3.0], 8.0), ["1.5", "2.0", "2.5", "3.0", "3.5", "4.0", "4.5"]);
    assert_eq!(labels(&[], 5.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
    assert!(labels(&[f64::MAX / 4.0, -1.0], 5.0).len() < 8);
    assert!(labels(&[1.0, 1.0 + 1e-15], 5.0).len() < 8);
}

#[test]
fn charts_of_any_size_are_drawn() {
    let noise = |i: u32| f64::from(i * 7919 % 13) / 13.0;
    let train: Vec<_> =
        (1..=60).map(|i| (f64::from(i), 2.2 * (-f64::from(i) / 14.0).exp() + 0.1 * noise(i) + 0.03)).collect();
    let val: Vec<_> = train.iter().map(|&(x, y)| (x, y * 1.1 + 0.12 * noise(x as u32 + 5) + 0.05)).collect();
    let smooth: Vec<_> = train.iter().map(|&(x, _)| (x, 2.2 * (-x / 14.0).exp() + 0.08)).collect();
    let series = [
        Series { name: "train loss", colour: [255, 0, 0], dashed: false, points: &train },
        Series { name: "val loss", colour: [255, 127, 80], dashed: false, points: &val },
        Series { name: "smooth train loss", colour: [0, 128, 0], dashed: true, points: &smooth },
    ];
    let chart = line_chart("Loss of the run", "Epoch", "Loss", &series);
    keep("chart.png", &chart);
    let empty = line_chart("Loss of the run", "Epoch", "Loss", &[]);
    keep("chart-empty.png", &empty);
    assert!(painted(&chart) > painted(&empty) + 3000);
    assert!(chart.image.pixels.chunks_exact(3).filter(|pixel| *pixel == [255, 0, 0]).count() > 300);
    let one = [Series { name: "train loss", colour: [255, 0, 0], dashed: false, points: &train[..1] }];
    let one = line_chart("Loss of the run", "Epoch", "Loss", &one);
    keep("chart-one.png", &one);
    assert!(one.image.pixels.chunks_exact(3).any(|pixel| pixel == [255, 0, 0]));
    let broken = [(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, 1e300), (4.0, -1e300)];
    line_chart("", "", "", &[Series { name: "", colour: INK, dashed: true, points: &broken }]);
}

#[test]
fn contact_sheets_show_small_and_large_pictures() {
    let image = |width_px: u32, height_px: u32, tone: u8| {
        let pixels = (0..width_px * height_px)
            .flat_map(|i| [tone, (i % width_px * 255 / width_px) as u8, (i / width_px * 255 / height_px) as u8]);
        RgbImage { width_px, height_px, pixels: pixels.collect() }
    };
    let sizes = [(28, 28), (64, 64), (120, 72), (600, 400), (72, 120), (1, 1), (96, 96)];
    let labels = ["zero", "a rather long class name", "ring 0.98", "猫", "", "x", "last"];
    let pictures: Vec<_> =
        (0u8..).zip(sizes).zip(labels).map(|((i, (w, h)), label)| (image(w, h, 30 * i), label.to_owned())).collect();
    let sheet = contact_sheet(&pictures, 4);
    keep("sheet.png", &sheet);
    // 28 px is enlarged four times: its first pixel is a block of 4 x 4, at the bottom of its row.
    let first_row = 256 * 400 / 600;
    assert_eq!(sheet.image.width_px, 12 + 4 * (256 + 12));
    let (x, y) = (12 + (256 - 112) / 2, 12 + first_row - 112);
    for (dx, dy) in [(0, 0), (3, 3)] {
        assert_eq!(pixel(&sheet, x + dx, y + dy), [0, 0, 0]);
    }
    assert_eq!(pixel(&sheet, x + 4, y), [0, 9, 0]);
    // `contact_sheet_within` with a large limit keeps pictures at their size.
    let sheet = contact_sheet_within(&pictures[3..4], 1, 600);
    assert_eq!(sheet.image.width_px, 12 + 600 + 12);
    assert_eq!(pixel(&sheet, 12 + 599, 12), pictures[3].0.pixels[3 * 599..][..3]);
    contact_sheet(&[], 0);
    contact_sheet(&[(RgbImage::default(), "nothing".into())], 3);
}

#[test]
fn heat_maps_of_few_and_many_classes_are_drawn() {
    let names = ["circle", "triangle", "square", "star", "cross", "ring"].map(String::from);
    let values: Vec<Vec<u64>> =
        (0..6).map(|i| (0..6).map(|j| if i == j { 60 + i } else { (i * 5 + j * 3) % 4 }).collect()).collect();
    let map = heat_map("Confusion matrix", ("true class", &names), ("predicted class", &names), &values);
    keep("heat.png", &map);
    assert!(map.image.pixels.chunks_exact(3).any(|pixel| pixel[2] > 2 * pixel[0].max(1)));
    let two = ["WBC", "a class of a long name"].map(String::from);
    keep(
        "heat-two.png",
        &heat_map("Confusion matrix", ("true class", &two), ("predicted class", &two), &[vec![12345, 2], vec![0, 0]]),
    );
    let many: Vec<String> = (0..120).map(|i| format!("class {i}")).collect();
    let diagonal: Vec<Vec<u64>> =
        (0..120).map(|i| (0..120).map(|j| u64::from(i == j) * 5 + u64::from(j == 7)).collect()).collect();
    keep("heat-many.png", &heat_map("Confusion matrix", ("true class", &many), ("predicted class", &many), &diagonal));
    heat_map("nothing", ("", &[]), ("", &[]), &[]);
}

#[test]
fn a_legend_gives_way_to_the_curves_and_counts_what_it_leaves_out() {
    let falling = [(1.0, 5.0), (2.0, 1.0), (3.0, 0.5)];
    let rising = falling.map(|(x, y)| (x, 5.5 - y));
    // The left edge of the box, 32 px high, right of which stands nothing but the box.
    let is_at = |points: &[(f64, f64)], y: u32| {
        let series = [Series { name: "a curve", colour: colour(0), dashed: false, points }];
        let chart = line_chart("", "", "", &series);
        (y..y + 32).all(|y| pixel(&chart, 900 - 28 - 10 - 113, y) == GRID)
    };
    let (top, bottom) = (48 + 10, 540 - 62 - 10 - 32);
    assert!(is_at(&falling, top) && !is_at(&falling, bottom));
    assert!(is_at(&rising, bottom) && !is_at(&rising, top));
    let many: Vec<_> = (0..40).map(|at| format!("run {at}")).collect();
    let series: Vec<_> = many
        .iter()
        .enumerate()
        .map(|(at, name)| Series { name, colour: colour(at), dashed: false, points: &rising })
        .collect();
    let chart = line_chart("forty runs", "", "", &series);
    keep("forty.png", &chart);
    assert_eq!((chart.image.width_px, chart.image.height_px), (900, 540));
    let both = stacked(&[chart.clone(), chart.clone()]);
    assert_eq!((both.image.width_px, both.image.height_px), (900, 1080));
    assert_eq!(both.image.pixels, [chart.image.pixels.clone(), chart.image.pixels].concat());
    let mut colours: Vec<_> = (0..DIFFERENT_COLOURS).map(colour).collect();
    colours.sort_unstable();
    colours.dedup();
    assert_eq!((colours.len(), colour(DIFFERENT_COLOURS)), (DIFFERENT_COLOURS, colour(0)));
}

#[test]
fn a_chart_for_a_page_has_its_points_where_they_belong() {
    let curves: [(&str, &[_]); 2] =
        [("loss <train>", &[(1.0, 0.0), (2.0, f64::NAN), (3.0, 1.0), (4.0, 0.5)]), ("val", &[])];
    let svg = line_chart_svg("Loss & \"more\"", &curves);
    assert!(svg.contains("aria-label=\"Loss &amp; &quot;more&quot;\""), "{svg}");
    assert!(svg.contains("<title>loss &lt;train&gt;, epoch 3: 1.0000</title>"), "{svg}");
    // The gap begins a new line; x runs from 54 to 386, the first value stands on the axis.
    let path = svg.split("class=\"curve c0\" d=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(path.starts_with("M54.0 220.0M275.3 ") && path.contains("L386.0 "), "{path}");
    assert!(svg.contains("class=\"curve c1\" d=\"\""), "{svg}");
    assert_eq!(escaped("a\u{1}\n<猫 &'>"), "a\u{fffd} &lt;猫 &amp;&#39;&gt;");
    let small = shrunk(&RgbImage { width_px: 300, height_px: 100, pixels: vec![7; 90_000] }, 150);
    assert_eq!((small.width_px, small.height_px, small.pixels), (150, 50, vec![7; 22_500]));
}
