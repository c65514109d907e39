//! isthmus-multicluster-tests
