//! isthmus-mesh
