"""Takes one photo: renders the lit scene, then does to it what a camera does, and encodes it as JPEG."""

import io

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, ImageFilter

from experiments.demo.cameras import Camera
from experiments.demo.light import draw_light, irradiance, sky_picture
from experiments.demo.raster import camera_coverage
from experiments.demo.samples import pixel_samples, splat
from experiments.demo.scene import Scene
from experiments.demo.textures import Atlas, look_up

# EXIF tags.
_MAKE, _MODEL, _FOCAL_35MM, _EXIF_FOLDER = 0x010F, 0x0110, 0xA405, 0x8769


def photograph(
    scene: Scene, atlas: Atlas, camera: Camera, rng: np.random.Generator, supersampling: int = 2
) -> tuple[bytes, Int[np.ndarray, "height width"]]:
    """A JPEG and the quad that each pixel's centre sees (raster.NOTHING for the sky)."""
    light = draw_light(rng)
    coverage = camera_coverage(scene, camera, supersampling)
    samples = pixel_samples(coverage, supersampling)
    albedo = look_up(scene, atlas, samples)
    # Squares stand for the inverse of the display's gamma: light adds up in linear values.
    radiance = albedo * albedo * irradiance(scene, samples, light)
    picture, hidden = splat(samples, radiance, camera.height, camera.width)
    developed = _developed(rng, picture + hidden * sky_picture(rng, camera, light))
    middle = supersampling // 2
    return _encoded(rng, developed, camera), coverage.quad[middle::supersampling, middle::supersampling]


def _developed(rng: np.random.Generator, radiance: Float[np.ndarray, "h w 3"]) -> Image.Image:
    """Exposure, white balance, vignette, contrast, blur of lens or hand, noise."""
    height, width = radiance.shape[:2]
    level = float(np.percentile(radiance.mean(axis=2), 70))
    exposure = 0.30 / max(level, 1e-3) * 2 ** rng.uniform(-0.7, 0.6)
    balance = np.array([1 + rng.uniform(-0.07, 0.07), 1.0, 1 + rng.uniform(-0.08, 0.08)], dtype=np.float32)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = (1 - rng.uniform(0, 0.22) * (x**2 + y**2) / 2).astype(np.float32)[..., None]
    exposed = radiance * (exposure * balance) * vignette
    # A shoulder instead of a hard cut keeps highlights.
    display = np.sqrt(np.where(exposed < 0.7, exposed, 0.7 + 0.3 * (1 - np.exp(-(exposed - 0.7) / 0.3))))
    display = 0.5 + (display - 0.5) * rng.uniform(0.88, 1.18)
    picture = Image.fromarray((np.clip(display, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8)))
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * rng.uniform(0.8, 3.5)
    noise[..., :] += noise.mean(axis=2, keepdims=True)
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def _encoded(rng: np.random.Generator, picture: Image.Image, camera: Camera) -> bytes:
    """JPEG of random quality; two of three photos say with which focal length they were taken."""
    exif = Image.Exif()
    if rng.random() < 2 / 3:
        exif[_MAKE], exif[_MODEL] = "Rendered", "Ring"
        exif.get_ifd(_EXIF_FOLDER)[_FOCAL_35MM] = camera.focal_35mm
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=int(rng.integers(65, 96)), exif=exif)
    return stream.getvalue()
