"""Footage as fleets record it: folders of pictures, videos, MCAP files, ROS 1 and ROS 2 bags, on disks and in buckets."""
