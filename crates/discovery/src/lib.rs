//! isthmus-discovery
