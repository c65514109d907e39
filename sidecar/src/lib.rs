//! isthmus-sidecar
