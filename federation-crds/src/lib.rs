//! isthmus-federation-crds
