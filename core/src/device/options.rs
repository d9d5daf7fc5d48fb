//! The options of ONNX Runtime's CUDA and TensorRT providers, as its version 1.31 has them.

use super::{Device, Error};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// A value as YAML has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OptionValue {
    /// `true`, `false`: 1 and 0 to ONNX Runtime.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Anything else.
    Text(String),
}

/// As ONNX Runtime takes it.
impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{}", u8::from(*value)),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Text(value) => f.write_str(value),
        }
    }
}

/// Options of the providers, by their own names. Valid where [`ProviderOptions::check`] says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderOptions {
    /// Those of the CUDA execution provider.
    pub cuda: BTreeMap<String, OptionValue>,
    /// Those of the TensorRT execution provider.
    pub tensorrt: BTreeMap<String, OptionValue>,
}

impl ProviderOptions {
    /// Sets one option, given as `cuda.use_tf32=true`.
    ///
    /// # Errors
    /// [`Error::Form`], [`Error::Provider`], [`Error::UnknownOption`] and [`Error::Refused`].
    pub fn set(&mut self, text: &str) -> Result<(), Error> {
        let form = || Error::Form {
            got: text.to_owned(),
        };
        let (place, value) = text.split_once('=').ok_or_else(form)?;
        let (provider, name) = place.trim().split_once('.').ok_or_else(form)?;
        let value = match value.trim() {
            "" => return Err(form()),
            "true" => OptionValue::Bool(true),
            "false" => OptionValue::Bool(false),
            text => (text.parse())
                .map_or_else(|_| OptionValue::Text(text.to_owned()), OptionValue::Integer),
        };
        let (device, options) = match provider {
            "cuda" => (Device::Cuda, &mut self.cuda),
            "tensorrt" => (Device::Tensorrt, &mut self.tensorrt),
            _ => {
                return Err(Error::Provider {
                    got: provider.to_owned(),
                });
            }
        };
        check(device, name)?;
        options.insert(name.to_owned(), value);
        Ok(())
    }

    /// Whether every option is one that its provider has, and that can be used.
    ///
    /// # Errors
    /// [`Error::UnknownOption`] with the nearest known one, and [`Error::Refused`].
    pub fn check(&self) -> Result<(), Error> {
        let given = [
            (Device::Cuda, &self.cuda),
            (Device::Tensorrt, &self.tensorrt),
        ];
        given.into_iter().try_for_each(|(device, options)| {
            options.keys().try_for_each(|name| check(device, name))
        })
    }

    /// What a device's provider is told, with our defaults where nothing is said: full float32 in CUDA, and engines of
    /// TensorRT that are kept.
    pub fn of(&self, device: Device) -> BTreeMap<String, String> {
        let (defaults, given): (&[_], _) = match device {
            Device::Cpu => return BTreeMap::new(),
            Device::Cuda => (&[("use_tf32", "0")], &self.cuda),
            Device::Tensorrt => (
                &[
                    ("trt_engine_cache_enable", "1"),
                    ("trt_timing_cache_enable", "1"),
                ],
                &self.tensorrt,
            ),
        };
        let defaults = defaults
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let given = given
            .iter()
            .map(|(name, value)| (name.clone(), value.to_string()));
        defaults.chain(given).collect()
    }

    /// Those of a device that may change what it computes, as a certificate's `provider_version` names them:
    /// `trt_fp16_enable=1, use_tf32=0`.
    pub fn numerics(&self, device: Device) -> Vec<String> {
        let options = self.of(device).into_iter();
        let counts =
            |(name, _): &(String, String)| matches!(find(device, name), Some(Role::Numerics));
        options
            .filter(counts)
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }
}

/// What an option does.
#[derive(Debug, Clone, Copy)]
enum Role {
    /// It may change what is computed.
    Numerics,
    /// Only where, how fast, or in how much memory.
    Place,
    /// It can't be used, for this reason.
    Refused(&'static str),
}

use Role::{Numerics, Place, Refused};

const GRAPH: &str = "a CUDA graph replays fixed addresses, and sessions here take their input from a new one in each run";
const STREAM: &str = "it is an address in another program's memory";
const NATIVE: &str = "it loads native code from a file";
const VERIFIED: &str = "models come from the bundle's verified bytes alone";

const CUDA: &[(&str, Role)] = &[
    ("arena_extend_strategy", Place),
    ("cudnn_conv1d_pad_to_nc1d", Numerics),
    ("cudnn_conv_algo_search", Numerics),
    ("cudnn_conv_use_max_workspace", Numerics),
    ("device_id", Place),
    ("do_copy_in_default_stream", Place),
    ("enable_cuda_graph", Refused(GRAPH)),
    ("enable_cudnn", Numerics),
    ("enable_skip_layer_norm_strict_mode", Numerics),
    ("fuse_conv_bias", Numerics),
    ("gpu_external_alloc", Refused(STREAM)),
    ("gpu_external_empty_cache", Refused(STREAM)),
    ("gpu_external_free", Refused(STREAM)),
    ("gpu_mem_limit", Place),
    ("has_user_compute_stream", Refused(STREAM)),
    ("prefer_nhwc", Numerics),
    ("sdpa_kernel", Numerics),
    ("tunable_op_enable", Numerics),
    ("tunable_op_max_tuning_duration_ms", Numerics),
    ("tunable_op_tuning_enable", Numerics),
    ("use_ep_level_unified_stream", Place),
    ("use_tf32", Numerics),
    ("user_compute_stream", Refused(STREAM)),
];

const TENSORRT: &[(&str, Role)] = &[
    ("device_id", Place),
    ("has_user_compute_stream", Refused(STREAM)),
    ("trt_auxiliary_streams", Place),
    ("trt_bf16_enable", Numerics),
    ("trt_build_heuristics_enable", Numerics),
    ("trt_builder_optimization_level", Numerics),
    ("trt_context_memory_sharing_enable", Place),
    ("trt_cuda_graph_enable", Refused(GRAPH)),
    ("trt_detailed_build_log", Place),
    ("trt_dla_core", Numerics),
    ("trt_dla_enable", Numerics),
    (
        "trt_dump_ep_context_model",
        Refused("engines are kept by trt_engine_cache_enable, keyed and verified"),
    ),
    ("trt_dump_subgraphs", Place),
    ("trt_engine_cache_enable", Place),
    ("trt_engine_cache_path", Place),
    (
        "trt_engine_cache_prefix",
        Refused("the folder of a session's engines has a key of its own"),
    ),
    ("trt_engine_decryption_enable", Refused(NATIVE)),
    ("trt_engine_decryption_lib_path", Refused(NATIVE)),
    ("trt_engine_hw_compatible", Numerics),
    ("trt_ep_context_embed_mode", Refused(VERIFIED)),
    ("trt_ep_context_file_path", Refused(VERIFIED)),
    ("trt_external_data_bytestream", Refused(VERIFIED)),
    ("trt_external_data_bytestream_size", Refused(VERIFIED)),
    ("trt_extra_plugin_lib_paths", Refused(NATIVE)),
    ("trt_force_sequential_engine_build", Place),
    ("trt_force_timing_cache", Numerics),
    ("trt_fp16_enable", Numerics),
    ("trt_int8_calibration_table_name", Numerics),
    ("trt_int8_enable", Numerics),
    ("trt_int8_use_native_calibration_table", Numerics),
    ("trt_layer_norm_fp32_fallback", Numerics),
    ("trt_load_user_initializer", Refused(VERIFIED)),
    ("trt_max_partition_iterations", Numerics),
    ("trt_max_workspace_size", Numerics),
    ("trt_min_subgraph_size", Numerics),
    ("trt_onnx_bytestream", Refused(VERIFIED)),
    ("trt_onnx_bytestream_size", Refused(VERIFIED)),
    ("trt_onnx_model_folder_path", Refused(VERIFIED)),
    ("trt_op_types_to_exclude", Numerics),
    ("trt_preview_features", Numerics),
    ("trt_profile_max_shapes", Numerics),
    ("trt_profile_min_shapes", Numerics),
    ("trt_profile_opt_shapes", Numerics),
    ("trt_sparsity_enable", Numerics),
    ("trt_tactic_sources", Numerics),
    ("trt_timing_cache_enable", Place),
    (
        "trt_timing_cache_path",
        Refused("the timing cache lies beside the engines, in trt_engine_cache_path"),
    ),
    ("trt_weight_stripped_engine_enable", Refused(VERIFIED)),
    ("user_compute_stream", Refused(STREAM)),
];

fn known(device: Device) -> &'static [(&'static str, Role)] {
    match device {
        Device::Cpu => &[],
        Device::Cuda => CUDA,
        Device::Tensorrt => TENSORRT,
    }
}

fn find(device: Device, name: &str) -> Option<Role> {
    let found = known(device).iter().find(|(known, _)| *known == name);
    found.map(|(_, role)| *role)
}

fn check(device: Device, name: &str) -> Result<(), Error> {
    let name = name.to_owned();
    match find(device, &name) {
        Some(Numerics | Place) => Ok(()),
        Some(Refused(reason)) => Err(Error::Refused {
            device,
            name,
            reason,
        }),
        None => Err(Error::UnknownOption {
            device,
            nearest: nearest(device, &name),
            name,
        }),
    }
}

fn nearest(device: Device, name: &str) -> Option<String> {
    let likeness = |known: &str| strsim::jaro_winkler(known, name);
    let names = known(device).iter().map(|(known, _)| *known);
    let nearest = names.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(nearest) > 0.8).then(|| nearest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(texts: &[&str]) -> Result<ProviderOptions, Error> {
        let mut options = ProviderOptions::default();
        texts.iter().try_for_each(|text| options.set(text))?;
        options.check()?;
        Ok(options)
    }

    #[test]
    fn options_reach_their_provider_under_their_own_names() {
        let options = set(&[
            "cuda.device_id=1",
            "cuda.use_tf32=true",
            "cuda.arena_extend_strategy=kSameAsRequested",
            "tensorrt.trt_fp16_enable=true",
            "tensorrt.trt_profile_min_shapes=pixel_values:1x3x224x224",
        ])
        .unwrap();
        let pairs = |device| -> Vec<_> {
            let pairs = options.of(device).into_iter();
            pairs
                .map(|(name, value)| format!("{name}={value}"))
                .collect()
        };
        assert_eq!(pairs(Device::Cpu), [""; 0]);
        assert_eq!(
            pairs(Device::Cuda),
            [
                "arena_extend_strategy=kSameAsRequested",
                "device_id=1",
                "use_tf32=1"
            ]
        );
        assert_eq!(
            pairs(Device::Tensorrt),
            [
                "trt_engine_cache_enable=1",
                "trt_fp16_enable=1",
                "trt_profile_min_shapes=pixel_values:1x3x224x224",
                "trt_timing_cache_enable=1",
            ]
        );
        assert_eq!(options.numerics(Device::Cuda), ["use_tf32=1"]);
        assert_eq!(
            ProviderOptions::default().numerics(Device::Cuda),
            ["use_tf32=0"],
            "never in silence"
        );
        let yaml = serde_json::json!({"cuda": {"use_tf32": true, "device_id": 1}});
        let read: ProviderOptions = serde_json::from_value(yaml).unwrap();
        assert_eq!(read.of(Device::Cuda)["use_tf32"], "1");
        assert_eq!(read.of(Device::Cuda)["device_id"], "1");
    }

    #[test]
    fn what_a_provider_does_not_have_is_refused() {
        for (text, want) in [
            (
                "cuda.use_tf23=1",
                "cuda has no option `use_tf23`; did you mean `use_tf32`?",
            ),
            (
                "cuda.trt_fp16_enable=1",
                "cuda has no option `trt_fp16_enable`",
            ),
            ("tensorrt.trt_fp16=1", "did you mean `trt_fp16_enable`?"),
            (
                "tensorrt.trt_cuda_graph_enable=1",
                "can't be used here: a CUDA graph replays",
            ),
            (
                "tensorrt.trt_extra_plugin_lib_paths=/tmp/a.so",
                "it loads native code",
            ),
            ("cpu.arena=1", "provider `cpu` has no options here"),
            ("use_tf32=1", "expected PROVIDER.NAME=VALUE"),
            ("cuda.use_tf32", "expected PROVIDER.NAME=VALUE"),
            ("cuda.use_tf32=", "expected PROVIDER.NAME=VALUE"),
        ] {
            let error = set(&[text]).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn the_lists_are_sorted_and_without_repetition() {
        for list in [CUDA, TENSORRT] {
            assert!(list.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }
}
