//! Random rooms: a floor, a ceiling, three walls and up to six pieces of furniture, and the camera that looks in. Owns
//! the places and colours of objects; `view.rs` owns the camera's view.
//!
//! The world is that of the voxel grid: x to the right, y up, z away from the camera, in metres from the grid's corner.
//! All faces lie on the borders of voxels, so that each voxel is of one class and the pictures agree with the voxels.

use feedline::plan::rng::SampleRng;

/// Size of the grid in metres, as of NYU's 60 x 36 x 60 voxels of 0.08 m.
pub const GRID_M: [f64; 3] = [4.8, 2.88, 4.8];

/// Cell indices, signed: objects that the camera sees at the side may begin before the grid.
pub type Cell = [i32; 3];
pub type Colour = [f64; 3];

pub const CEILING: u8 = 1;
pub const FLOOR: u8 = 2;
const WALL: u8 = 3;
const WINDOW: u8 = 4;
const CHAIR: u8 = 5;
const BED: u8 = 6;
const SOFA: u8 = 7;
const TABLE: u8 = 8;
const TV: u8 = 9;
const FURNITURE: u8 = 10;
const OBJECTS: u8 = 11;

/// Colours of the classes 1 to 11 before they vary, 0 to 255.
const COLOURS: [Colour; 11] = [
    [236.0, 234.0, 226.0],
    [140.0, 104.0, 72.0],
    [206.0, 196.0, 168.0],
    [150.0, 205.0, 240.0],
    [196.0, 62.0, 52.0],
    [178.0, 124.0, 196.0],
    [58.0, 88.0, 172.0],
    [222.0, 152.0, 66.0],
    [36.0, 38.0, 46.0],
    [72.0, 126.0, 88.0],
    [224.0, 214.0, 60.0],
];

/// A box of one class.
pub struct Solid {
    pub class: u8,
    /// First cell.
    pub low: Cell,
    /// The cell behind the last, on each axis.
    pub high: Cell,
    /// Before light falls on it, 0 to 255.
    pub colour: Colour,
    /// Dark lines this far apart along each axis, in metres; 0 none.
    pub seams_m: [f64; 3],
    /// True if its edges are drawn dark.
    pub has_edges: bool,
}

/// Position and direction of the camera.
pub struct Camera {
    pub eye_m: [f64; 3],
    /// To the right, in radians.
    pub yaw: f64,
    /// Down, in radians.
    pub pitch: f64,
}

/// A room in the cells of a grid.
pub struct Room {
    /// Voxels along x, y and z.
    pub grid: [usize; 3],
    /// Edges of a voxel.
    pub voxel_m: [f64; 3],
    /// The later of two that overlap counts.
    pub solids: Vec<Solid>,
    pub camera: Camera,
    /// Behind the last cells of the room along each axis; the first are in `first`.
    pub end: Cell,
    pub first: Cell,
    /// Brightness by the axis that a face looks along, then by whether it looks forward.
    pub light: [[f64; 2]; 3],
}

/// A place on the floor or on a piece of furniture: cells [x, z], and the cell above it.
#[derive(Clone, Copy)]
struct Top {
    low: [i32; 2],
    high: [i32; 2],
    y: i32,
}

/// The side of a piece of furniture's back.
#[derive(Clone, Copy)]
enum Back {
    Far,
    Left,
    Right,
    Near,
}

const ANY: [Back; 4] = [Back::Far, Back::Left, Back::Right, Back::Near];
const WALLS: [Back; 3] = [Back::Far, Back::Left, Back::Right];

/// A part of a piece: metres along its back, up from the floor, and away from its back; each from and to. A part too
/// thin for the grid gets one voxel.
type Part = [[f64; 2]; 3];

impl Room {
    /// Draws a room for a grid of `grid` voxels, all at least 4.
    pub fn draw(grid: [usize; 3], rng: &mut SampleRng) -> Room {
        let voxel_m: [f64; 3] = std::array::from_fn(|axis| GRID_M[axis] / grid[axis] as f64);
        let cells = |metres: f64, axis: usize| (metres / voxel_m[axis]).round() as i32;
        // Two voxels at least are left between the walls.
        let spare = (grid[0] as i32 - 4) / 2;
        let first = [cells(rng.uniform(0.0, 0.7), 0).min(spare), 0, 0];
        let end = [
            grid[0] as i32 - cells(rng.uniform(0.0, 0.7), 0).min(spare),
            cells(rng.uniform(2.4, GRID_M[1]), 1),
            cells(rng.uniform(3.6, GRID_M[2]), 2),
        ];
        let (floor_m, ceiling_m) = (voxel_m[1], f64::from(end[1] - 1) * voxel_m[1]);
        let middle_m = f64::from(first[0] + end[0]) / 2.0 * voxel_m[0];
        let width_m = f64::from(end[0] - first[0] - 2) * voxel_m[0];
        let side = rng.uniform(-0.8, 0.8) * (width_m / 3.0).min(1.0);
        let camera = Camera {
            eye_m: [
                middle_m + side,
                (floor_m + rng.uniform(1.2, 1.5)).min(0.2 * floor_m + 0.8 * ceiling_m),
                rng.uniform(0.0, 0.3),
            ],
            // Towards the middle of the room, more or less.
            yaw: rng.uniform(-0.2, 0.2) - 0.15 * side,
            pitch: rng.uniform(0.02, 0.2),
        };
        let bright = rng.uniform(0.9, 1.0);
        let (left, right) = if rng.chance(0.5) { (0.9, 0.76) } else { (0.76, 0.9) };
        let light = [[left, right], [0.62, 1.0], [0.84, 0.8]].map(|sides| sides.map(|side| side * bright));
        let mut room = Room { grid, voxel_m, solids: Vec::new(), camera, end, first, light };
        room.build(rng);
        room.furnish(rng);
        room
    }

    /// Floor, ceiling, walls and windows. They begin behind the camera's back, so that no ray leaves the room.
    fn build(&mut self, rng: &mut SampleRng) {
        let ([x0, ..], [x1, y1, z1]) = (self.first, self.end);
        let z0 = -self.cells(3.0, 2);
        let plank_m = rng.uniform(0.16, 0.4);
        let tile_m = if rng.chance(0.5) { rng.uniform(0.5, 0.8) } else { 0.0 };
        let floor = vary(FLOOR, rng);
        let wall = vary(WALL, rng);
        let ceiling = vary(CEILING, rng);
        self.add(FLOOR, [x0, 0, z0], [x1, 1, z1], floor, [plank_m, 0.0, 0.0], false);
        self.add(CEILING, [x0, y1 - 1, z0], [x1, y1, z1], ceiling, [tile_m, 0.0, tile_m], false);
        self.add(WALL, [x0, 1, z0], [x0 + 1, y1 - 1, z1], wall, [0.0; 3], false);
        self.add(WALL, [x1 - 1, 1, z0], [x1, y1 - 1, z1], wall, [0.0; 3], false);
        self.add(WALL, [x0 + 1, 1, z1 - 1], [x1 - 1, y1 - 1, z1], wall, [0.0; 3], false);
        let panes = vary(WINDOW, rng);
        for back in WALLS {
            if !rng.chance(0.4) {
                continue;
            }
            let (width_m, height_m, sill_m) = (rng.uniform(0.8, 1.8), rng.uniform(0.7, 1.1), rng.uniform(0.8, 1.1));
            // Into the wall, which is one voxel thick.
            let window = [[0.0, width_m], [sill_m, sill_m + height_m], [-1e-6, 0.0]];
            if let Some((low, high)) = self.place(&[window], back, false, rng) {
                let at = self.put(window, back, low, high);
                let seams = [width_m / 2.0, height_m / 2.0, width_m / 2.0];
                self.add(WINDOW, at.0, at.1, panes, seams, true);
            }
        }
    }

    fn furnish(&mut self, rng: &mut SampleRng) {
        let mut kinds = [CHAIR, BED, SOFA, TABLE, TV, FURNITURE, OBJECTS, CHAIR, TABLE, FURNITURE];
        for left in (1..kinds.len()).rev() {
            kinds.swap(left, rng.below(left as u64 + 1) as usize);
        }
        let wanted = 3 + rng.below(4);
        let (mut pieces, mut tops) = (0, Vec::new());
        for kind in kinds {
            if pieces < wanted {
                pieces += u64::from(self.stand(kind, &mut tops, rng));
            }
        }
        // A few things lie on the furniture.
        for top in tops {
            if rng.chance(0.75) {
                self.lay(top, rng);
            }
        }
    }

    /// Places a piece of furniture if there is room for it; false if there is none.
    fn stand(&mut self, kind: u8, tops: &mut Vec<Top>, rng: &mut SampleRng) -> bool {
        let mut u = |low: f64, high: f64| rng.uniform(low, high);
        // Its parts, true if its back is at a wall, and the distance between its seams.
        let (parts, at_wall, seam_m): (Vec<Part>, bool, f64) = match kind {
            CHAIR => {
                let (width, seat, back) = (u(0.42, 0.6), u(0.4, 0.5), u(0.82, 1.0));
                let mut parts = legs(width, width, seat - 0.04);
                parts.push([[0.0, width], [seat - 0.04, seat + 0.04], [0.0, width]]);
                parts.push([[0.0, width], [seat + 0.04, back], [0.0, 0.08]]);
                (parts, false, 0.0)
            }
            BED => {
                let (width, length, height) = (u(1.1, 1.7), u(1.8, 2.1), u(0.4, 0.56));
                let board = [[0.0, width], [0.0, u(0.8, 1.05)], [0.0, 0.08]];
                let pillow = [[0.16, width - 0.16], [height, height + 0.1], [0.1, 0.5]];
                (vec![board, [[0.0, width], [0.0, height], [0.08, length]], pillow], true, u(0.2, 0.3))
            }
            SOFA => {
                let (width, depth, seat) = (u(1.3, 2.1), u(0.8, 0.95), u(0.38, 0.46));
                let (back, arm) = (u(0.75, 0.9), u(0.55, 0.65));
                let parts = vec![
                    [[0.0, width], [0.0, seat], [0.0, depth]],
                    [[0.0, width], [seat, back], [0.0, 0.24]],
                    [[0.0, 0.16], [seat, arm], [0.24, depth]],
                    [[width - 0.16, width], [seat, arm], [0.24, depth]],
                ];
                (parts, true, width / 3.0)
            }
            TABLE => {
                let (width, depth) = (u(0.8, 1.5), u(0.6, 0.85));
                let height = if u(0.0, 1.0) < 0.3 { u(0.4, 0.5) } else { u(0.68, 0.78) };
                let mut parts = legs(width, depth, height - 0.08);
                parts.push([[0.0, width], [height - 0.08, height], [0.0, depth]]);
                (parts, false, 0.0)
            }
            TV => {
                let (width, height, sill) = (u(0.8, 1.3), u(0.5, 0.72), u(0.6, 0.9));
                (vec![[[0.0, width], [sill, sill + height], [0.08, 0.24]]], true, 0.0)
            }
            FURNITURE => {
                let tall = u(0.0, 1.0) < 0.5;
                let (width, depth) = (u(0.6, 1.4), u(0.38, 0.6));
                let height = if tall { u(1.5, 2.0) } else { u(0.6, 1.1) };
                (vec![[[0.0, width], [0.0, height], [0.0, depth]]], true, u(0.35, 0.5))
            }
            _ => {
                let (width, depth, height) = (u(0.28, 0.5), u(0.28, 0.5), u(0.25, 0.6));
                (vec![[[0.0, width], [0.0, height], [0.0, depth]]], false, 0.0)
            }
        };
        let colour = vary(kind, rng);
        for _ in 0..12 {
            let choices: &[Back] = if at_wall { &WALLS } else { &ANY };
            let back = choices[rng.below(choices.len() as u64) as usize];
            let Some((low, high)) = self.place(&parts, back, !at_wall, rng) else { continue };
            for (number, part) in parts.iter().enumerate() {
                let (from, to) = self.put(*part, back, low, high);
                let pillow = kind == BED && number == 2;
                let colour = if pillow { colour.map(|value| 0.4 * value + 140.0) } else { colour };
                let seams = if pillow { [0.0; 3] } else { [seam_m; 3] };
                self.add(kind, from, to, colour, seams, true);
                let is_low = f64::from(to[1]) * self.voxel_m[1] < 1.25;
                let is_top = matches!((kind, number), (TABLE, 4) | (BED, 1) | (FURNITURE, 0));
                if is_top && is_low {
                    tops.push(Top { low: [from[0], from[2]], high: [to[0], to[2]], y: to[1] });
                }
            }
            if kind == TV && rng.chance(0.6) {
                // The cabinet below, as wide as the set and deeper.
                let [[u0, u1], [sill, _], _] = parts[0];
                let (from, to) = self.put([[u0, u1], [0.0, sill], [0.0, 0.32]], back, low, high);
                let colour = vary(FURNITURE, rng);
                self.add(FURNITURE, from, to, colour, [0.4; 3], true);
            }
            return true;
        }
        false
    }

    /// One or two small things on a piece of furniture.
    fn lay(&mut self, top: Top, rng: &mut SampleRng) {
        for _ in 0..1 + rng.below(2) {
            let size = [rng.uniform(0.12, 0.3), rng.uniform(0.12, 0.35), rng.uniform(0.12, 0.3)];
            let [width, height, depth] = std::array::from_fn(|axis| self.cells(size[axis], axis).max(1));
            let (spare_x, spare_z) = (top.high[0] - top.low[0] - width, top.high[1] - top.low[1] - depth);
            if spare_x < 0 || spare_z < 0 || top.y + height >= self.end[1] {
                continue;
            }
            let x = top.low[0] + rng.below(spare_x as u64 + 1) as i32;
            let z = top.low[1] + rng.below(spare_z as u64 + 1) as i32;
            let (low, high) = ([x, top.y, z], [x + width, top.y + height, z + depth]);
            if self.is_free(low, high) {
                self.add(OBJECTS, low, high, vary(OBJECTS, rng), [0.0; 3], true);
            }
        }
    }

    /// A free piece of floor for the area that `parts` cover, as cells [x, z], with its back at the wall, or anywhere.
    fn place(&self, parts: &[Part], back: Back, anywhere: bool, rng: &mut SampleRng) -> Option<([i32; 2], [i32; 2])> {
        let reach = |axis: usize| parts.iter().map(|part| part[axis][1]).fold(0.0, f64::max);
        let height = self.cells(reach(1), 1).max(1);
        let sides = if matches!(back, Back::Far | Back::Near) { [reach(0), reach(2)] } else { [reach(2), reach(0)] };
        let size = [self.cells(sides[0], 0).max(1), self.cells(sides[1], 2).max(1)];
        // Not too near to the camera.
        let least = [self.first[0] + 1, self.cells(1.25, 2)];
        let spare = [self.end[0] - 1 - least[0] - size[0], self.end[2] - 1 - least[1] - size[1]];
        if spare[0] < 0 || spare[1] < 0 || 1 + height >= self.end[1] {
            return None;
        }
        let mut low = [0, 1].map(|axis| least[axis] + rng.below(spare[axis] as u64 + 1) as i32);
        match back {
            Back::Far if !anywhere => low[1] = least[1] + spare[1],
            Back::Left if !anywhere => low[0] = least[0],
            Back::Right if !anywhere => low[0] = least[0] + spare[0],
            _ => (),
        }
        let high = [low[0] + size[0], low[1] + size[1]];
        let is_free = self.is_free([low[0], 1, low[1]], [high[0], 1 + height, high[1]]);
        is_free.then_some((low, high))
    }

    /// True if a box contains nothing but the room itself.
    fn is_free(&self, low: Cell, high: Cell) -> bool {
        let meets = |solid: &Solid| (0..3).all(|axis| solid.low[axis] < high[axis] && low[axis] < solid.high[axis]);
        !self.solids.iter().any(meets)
    }

    /// The cells of a part of a piece that stands on the floor cells `low` to `high`.
    fn put(&self, part: Part, back: Back, low: [i32; 2], high: [i32; 2]) -> (Cell, Cell) {
        let span = |[from, to]: [f64; 2], axis: usize| {
            let from = self.cells(from, axis);
            (from, self.cells(to, axis).max(from + 1))
        };
        // A window lies behind its place.
        let shift = i32::from(part[2][0] < 0.0);
        let (y0, y1) = span(part[1], 1);
        let y = (1 + y0, (1 + y1).min(self.end[1] - 1));
        let turned = matches!(back, Back::Left | Back::Right);
        let (along, away) =
            if turned { (span(part[0], 2), span(part[2], 0)) } else { (span(part[0], 0), span(part[2], 2)) };
        let (x, z) = match back {
            Back::Far => ((low[0] + along.0, low[0] + along.1), (high[1] - away.1 + shift, high[1] - away.0 + shift)),
            Back::Near => ((low[0] + along.0, low[0] + along.1), (low[1] + away.0, low[1] + away.1)),
            Back::Left => ((low[0] + away.0 - shift, low[0] + away.1 - shift), (low[1] + along.0, low[1] + along.1)),
            Back::Right => ((high[0] - away.1 + shift, high[0] - away.0 + shift), (low[1] + along.0, low[1] + along.1)),
        };
        ([x.0, y.0, z.0], [x.1, y.1, z.1])
    }

    fn cells(&self, metres: f64, axis: usize) -> i32 {
        (metres / self.voxel_m[axis]).round() as i32
    }

    fn add(&mut self, class: u8, low: Cell, high: Cell, colour: Colour, seams_m: [f64; 3], has_edges: bool) {
        self.solids.push(Solid { class, low, high, colour, seams_m, has_edges });
    }
}

/// Four legs, one voxel thick.
fn legs(width: f64, depth: f64, height: f64) -> Vec<Part> {
    let ends = |length: f64| [[0.0, 0.08], [length - 0.08, length]];
    let corners = ends(width).into_iter().flat_map(|x| ends(depth).map(|z| (x, z)));
    corners.map(|(x, z)| [x, [0.0, height], z]).collect()
}

/// The colour of an object of a class: its class is still to be told, but no two are alike.
fn vary(class: u8, rng: &mut SampleRng) -> Colour {
    let bright = rng.uniform(0.82, 1.12);
    COLOURS[usize::from(class) - 1].map(|value| (value * bright + rng.uniform(-16.0, 16.0)).clamp(0.0, 255.0))
}
