//! A network as an ONNX graph: the third way through a [`Network`], which writes down what a pass would compute. Owns the
//! operators that the layers become; what else is said of a network belongs to `export`.

mod messages;

use super::forward::NORM_EPSILON;
use super::layers::{Conv, Head, Network, Pool};
use super::model::Model;
use messages::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use prost::Message;

/// Version of the file's form, the one that came with [`OPSET`].
const IR_VERSION: i64 = 8;
/// Version of the operators.
const OPSET: i64 = 17;

/// ONNX' number for f32.
const FLOAT: i32 = 1;
/// ONNX' numbers for the kinds of attributes.
const FLOAT_ATTRIBUTE: i32 = 1;
const INT_ATTRIBUTE: i32 = 2;
const INTS_ATTRIBUTE: i32 = 7;

const IMAGE: &str = "image";
const LOGITS: &str = "logits";

/// The bytes of an ONNX file with the network: from `image` f32 (batch, 3, `input_px`, `input_px`), normalised, to `logits` f32
/// (batch, classes), in evaluation mode, for any batch.
pub(crate) fn bytes(model: &Model, input_px: u32, producer: &str, metadata: Vec<(String, String)>) -> Vec<u8> {
    let mut graph = Graph { model, next: 0, proto: GraphProto::default() };
    let side = i64::from(input_px);
    graph.proto.name = model.backbone.name().into();
    graph.proto.input.push(value(IMAGE, &[3, side, side]));
    model.backbone.build(&mut graph, IMAGE.into());
    graph.proto.output.push(value(LOGITS, &[model.classes as i64]));
    let file = ModelProto {
        ir_version: IR_VERSION,
        producer_name: producer.into(),
        graph: Some(graph.proto),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata.into_iter().map(|(key, value)| StringStringEntryProto { key, value }).collect(),
    };
    file.encode_to_vec()
}

/// An input or output of a batch of any size and these further axes.
fn value(name: &str, axes: &[i64]) -> ValueInfoProto {
    let batch = DimensionProto { dim_value: None, dim_param: Some("batch".into()) };
    let axes = axes.iter().map(|axis| DimensionProto { dim_value: Some(*axis), dim_param: None });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(axes).collect() };
    let tensor_type = Some(TensorTypeProto { elem_type: FLOAT, shape: Some(shape) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}

fn int(name: &str, i: usize) -> AttributeProto {
    AttributeProto { name: name.into(), i: Some(i as i64), r#type: INT_ATTRIBUTE, ..Default::default() }
}

fn ints(name: &str, ints: &[usize]) -> AttributeProto {
    let ints = ints.iter().map(|i| *i as i64).collect();
    AttributeProto { name: name.into(), ints, r#type: INTS_ATTRIBUTE, ..Default::default() }
}

fn float(name: &str, f: f64) -> AttributeProto {
    AttributeProto { name: name.into(), f: Some(f as f32), r#type: FLOAT_ATTRIBUTE, ..Default::default() }
}

/// A graph that grows with each layer. A tensor is known by the name of the node that gives it.
struct Graph<'m> {
    model: &'m Model,
    /// The next tensor of the model to be written.
    next: usize,
    proto: GraphProto,
}

impl Graph<'_> {
    /// Writes the next tensor of the model, which the network calls `layer`.`part`, and gives its name.
    fn take(&mut self, layer: &str, part: &str) -> String {
        let spec = &self.model.store.specs[self.next];
        debug_assert_eq!(spec.name, format!("{layer}.{part}"), "a network must declare and export alike");
        self.next += 1;
        self.constant(&spec.name, &spec.shape, self.model.store.bytes(spec))
    }

    /// Writes a tensor of little-endian f32, and gives its name.
    fn constant(&mut self, name: &str, shape: &[usize], raw_data: Vec<u8>) -> String {
        let dims = shape.iter().map(|axis| *axis as i64).collect();
        self.proto.initializer.push(TensorProto { dims, data_type: FLOAT, name: name.into(), raw_data });
        name.into()
    }

    /// Writes a node with one output, called as the node is, and gives the output's name.
    fn node(&mut self, name: &str, op_type: &str, input: Vec<String>, attribute: Vec<AttributeProto>) -> String {
        let (name, op_type, output) = (name.to_owned(), op_type.to_owned(), vec![name.to_owned()]);
        self.proto.node.push(NodeProto { input, output, name: name.clone(), op_type, attribute });
        name
    }

    /// Writes a node of a layer that has no name in the network: its place in the graph is its number.
    fn unnamed(&mut self, op_type: &str, input: Vec<String>, attribute: Vec<AttributeProto>) -> String {
        let name = format!("{}_{}", op_type.to_lowercase(), self.proto.node.len());
        self.node(&name, op_type, input, attribute)
    }
}

impl Network for Graph<'_> {
    type Maps = String;
    type Logits = String;

    fn conv(&mut self, name: &str, x: String, conv: Conv) -> String {
        let weight = self.take(name, "weight");
        let Conv { kernel_px, stride_px, groups, .. } = conv;
        let attributes = vec![
            int("group", groups),
            ints("kernel_shape", &[kernel_px; 2]),
            ints("pads", &[kernel_px / 2; 4]),
            ints("strides", &[stride_px; 2]),
        ];
        self.node(name, "Conv", vec![x, weight], attributes)
    }

    fn batch_norm(&mut self, name: &str, x: String, _channels: usize) -> String {
        let parts = ["weight", "bias", "running_mean", "running_var"].map(|part| self.take(name, part));
        let input = std::iter::once(x).chain(parts).collect();
        self.node(name, "BatchNormalization", input, vec![float("epsilon", NORM_EPSILON)])
    }

    fn relu(&mut self, x: String) -> String {
        self.unnamed("Relu", vec![x], Vec::new())
    }

    fn relu6(&mut self, x: String) -> String {
        let limits = [("relu6_min", 0.0_f32), ("relu6_max", 6.0)].map(|(name, limit)| {
            let is_there = self.proto.initializer.iter().any(|tensor| tensor.name == name);
            if is_there { name.into() } else { self.constant(name, &[], limit.to_le_bytes().to_vec()) }
        });
        self.unnamed("Clip", std::iter::once(x).chain(limits).collect(), Vec::new())
    }

    fn add(&mut self, x: String, y: String) -> String {
        self.unnamed("Add", vec![x, y], Vec::new())
    }

    fn max_pool(&mut self, x: String) -> String {
        let attributes = vec![ints("kernel_shape", &[3; 2]), ints("pads", &[1; 4]), ints("strides", &[2; 2])];
        self.unnamed("MaxPool", vec![x], attributes)
    }

    fn classify(&mut self, x: String, head: Head) -> String {
        let (weight, bias) = (self.take(head.name, "weight"), self.take(head.name, "bias"));
        let pool = match head.pool {
            Pool::Mean => "GlobalAveragePool",
            Pool::Max => "GlobalMaxPool",
        };
        let pooled = self.unnamed(pool, vec![x], Vec::new());
        let features = self.unnamed("Flatten", vec![pooled], vec![int("axis", 1)]);
        self.node(LOGITS, "Gemm", vec![features, weight, bias], vec![int("transB", 1)])
    }
}
