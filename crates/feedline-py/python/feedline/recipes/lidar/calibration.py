"""Conversions between lidar, rectified camera and picture: a KITTI calibration's arithmetic, with OpenPCDet's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import ConfigError


class Calibration:
    """The calibration of a frame. Points are (N, 3), in metres; pixels (N, 2), to the right and down.

    ``calib`` is a mapping with ``P2`` (3, 4), ``R0`` (3, 3) and ``Tr_velo2cam`` (3, 4), or a ``calib/ID.txt`` of KITTI.
    """

    def __init__(self, calib: Any) -> None:
        if not hasattr(calib, "keys"):
            calib = _read(calib)
        self.P2 = _matrix(calib, "P2", 3, 4)
        self.R0 = _matrix(calib, "R0", 3, 3)
        self.V2C = _matrix(calib, "Tr_velo2cam", 3, 4)
        self.cu, self.cv = self.P2[0, 2], self.P2[1, 2]
        self.fu, self.fv = self.P2[0, 0], self.P2[1, 1]
        self.tx, self.ty = self.P2[0, 3] / -self.fu, self.P2[1, 3] / -self.fv

    def __repr__(self) -> str:
        return f"Calibration(fu={self.fu:.2f}, fv={self.fv:.2f}, cu={self.cu:.2f}, cv={self.cv:.2f})"

    @staticmethod
    def cart_to_hom(points: Any) -> Any:
        """Homogeneous coordinates: points with a 1 appended."""
        return np.hstack([points, np.ones((len(points), 1), dtype=np.float32)])

    def _to_rect(self) -> Any:
        """(4, 4): from the lidar to the rectified camera."""
        turn, rigid = np.eye(4), np.eye(4)
        turn[:3, :3], rigid[:3] = self.R0, self.V2C
        return turn @ rigid

    def lidar_to_rect(self, pts_lidar: Any) -> Any:
        """Points of the lidar in rectified camera coordinates: to the right, down, forward."""
        return _move(pts_lidar, self._to_rect()[:3])

    def rect_to_lidar(self, pts_rect: Any) -> Any:
        """Points in rectified camera coordinates in those of the lidar: forward, to the left, up."""
        return _move(pts_rect, np.linalg.inv(self._to_rect())[:3])

    def rect_to_img(self, pts_rect: Any) -> tuple[Any, Any]:
        """Pixels of points in rectified camera coordinates, and their depth in metres."""
        seen = _move(pts_rect, self.P2)
        depth = seen[:, 2] - self.P2[2, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            return seen[:, :2] / np.asarray(pts_rect)[:, 2:3], depth

    def lidar_to_img(self, pts_lidar: Any) -> tuple[Any, Any]:
        """Pixels of points of the lidar, and their depth in metres."""
        return self.rect_to_img(self.lidar_to_rect(pts_lidar))

    def img_to_rect(self, u: Any, v: Any, depth_rect: Any) -> Any:
        """Points in rectified camera coordinates of pixels whose depth is known."""
        x = (u - self.cu) * depth_rect / self.fu + self.tx
        y = (v - self.cv) * depth_rect / self.fv + self.ty
        return np.stack([x, y, depth_rect], axis=-1).reshape(-1, 3)

    def corners3d_to_img_boxes(self, corners3d: Any) -> tuple[Any, Any]:
        """(N, 4) left, top, right, bottom around the pixels of corners (N, 8, 3) in rectified camera coordinates; and those
        pixels, (N, 8, 2).
        """
        corners3d = np.asarray(corners3d)
        seen = _move(corners3d.reshape(-1, 3), self.P2)
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = (seen[:, :2] / seen[:, 2:3]).reshape(-1, 8, 2)
        return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1), pixels


def _move(points: Any, matrix: Any) -> Any:
    """Multiplies points (N, 3) by a matrix (3, 4), in float64, so that a round trip gives the same points."""
    points = np.asarray(points)
    moved = points.astype(np.float64) @ matrix[:, :3].T + matrix[:, 3]
    return moved.astype(np.float32) if points.dtype == np.float32 else moved


def _matrix(calib: Any, name: str, rows: int, columns: int) -> Any:
    if name not in calib:
        raise ConfigError(f"the calibration has no {name}. Give P2, R0 and Tr_velo2cam")
    matrix = np.array(calib[name], dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[0] < rows or matrix.shape[1] < columns:
        raise ConfigError(f"{name} of the calibration is {matrix.shape}: it must be {rows} x {columns}")
    return matrix[:rows, :columns]


def _read(path: Any) -> dict[str, Any]:
    """Reads a calibration file by its line numbers, as in KITTI: P0 to P3, R0_rect, Tr_velo_to_cam."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not in UTF-8. Save it so") from None
    found = {}
    for name, number, shape in (("P2", 2, (3, 4)), ("R0", 4, (3, 3)), ("Tr_velo2cam", 5, (3, 4))):
        try:
            found[name] = np.array(lines[number].split()[1:], dtype=np.float32).reshape(shape)
        except (IndexError, ValueError):
            numbers = shape[0] * shape[1]
            raise ConfigError(f"{path}, line {number + 1}: there should be a name and {numbers} numbers, for {name}") from None
    return found
