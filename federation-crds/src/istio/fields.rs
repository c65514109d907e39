//! How the structs of Istio's kinds are written: every field is optional, as in protobuf's JSON, and an absent field is
//! its type's default.

/// Whether a value is what an absent field means, so that it need not be written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Structs whose fields may all be absent. With `kube(…)` behind the documentation it is the specification of a kind.
macro_rules! message {
    ($($(#[doc = $doc:literal])+ $(kube($($kube:tt)+))? struct $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* })+) => {
        $(crate::istio::fields::message!(@one [$(#[doc = $doc])+] [$(kube($($kube)+))?] $name { $($(#[$meta])* $field: $type,)* });)+
    };
    (@one [$($doc:tt)+] [] $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        $($doc)+
        #[derive(kube::KubeSchema, Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$meta])* #[serde(default, skip_serializing_if = "crate::istio::fields::is_default")] pub $field: $type,)*
        }
    };
    (@one [$($doc:tt)+] [kube($($kube:tt)+)] $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        $($doc)+
        #[derive(
            kube::CustomResource, kube::KubeSchema, Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize,
        )]
        #[serde(rename_all = "camelCase")]
        #[kube(group = "networking.istio.io", version = "v1", namespaced, status = "IstioStatus", derive = "PartialEq", $($kube)+)]
        pub struct $name {
            $($(#[$meta])* #[serde(default, skip_serializing_if = "crate::istio::fields::is_default")] pub $field: $type,)*
        }
    };
}

/// Enumerations whose first word is what an absent field means.
macro_rules! words {
    ($($(#[doc = $doc:literal])+ enum $name:ident { $first:ident = $first_word:literal $(, $variant:ident = $word:literal)* $(,)? })+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name {
            #[default]
            #[serde(rename = $first_word)]
            $first,
            $(#[serde(rename = $word)] $variant,)*
        }
    )+};
}

pub(crate) use {message, words};
