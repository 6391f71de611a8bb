"""Registered clusters and their roots."""

from rootstock.config.clusters import CLUSTER_REGISTRY, get_root_for_cluster

__all__ = ["CLUSTER_REGISTRY", "get_root_for_cluster"]
