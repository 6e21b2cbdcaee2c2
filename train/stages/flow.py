"""What the image-to-video and the action stage share: cached latents and prompts, noise, and the flow-matching loss."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from train.data import csv, streams, text
from train.data.cache import CachedEntries, Room
from train.data.shards import LATENTS, ShardWriter
from train.loop import export, legacy
from train.loop.config import ConfigError, TrainConfig, named_in, require
from train.loop.dist import Processes
from train.loop.seeding import Draw
from train.loop.stage import Stage, StepLoss, going_on
from train.stages import refuse_unused, samples
from train.stages.clips import ByPrompt, ClipEncoder, Keys, LazyClips, PromptEncoder, Share, View, Work, encode_share
from train.stages.embodiment import idm_path, masks_of
from train.stages.losses import SigmaSampler, flow_matching_loss
from train.stages.rows import RowReader
from train.stages.streamed import Making, StreamedClips, StreamWork, encode_shards, refuse_unfit, remembered
from wanact import flow, shapes
from wanact.data import episodes
from wanact.errors import UserError, in_words
from wanact.files import write_json
from wanact.media import video
from wanact.models import vae as wan_vae
from wanact.models.attention import choose_attention
from wanact.models.text import unread
from wanact.models.transformer import WanActTransformer3DModel
from wanact.weights import layouts, model_dir

# Networks above this many parameters do not fit without gradient checkpointing; Wan2.2-TI2V-5B has 5.0 B.
LARGE_NETWORK = 1_000_000_000

# What action_train_config.json says of the LoRA of a run without one: readers ask for the keys.
NO_LORA_CONFIG = {"lora_base_model": None, "lora_target_modules": "", "lora_rank": None}


class FlowStage(Stage):
    """Predict the velocity of noisy latents whose first frame is clean, or what the model's scheduler says instead.

    Subclasses say what is trained (`build`) and whether rows have actions.
    """

    uses = (
        *("data", "model", "loss", "export_dtype", "save_path"),
        *("sample_steps", "sample_count", "sample_inference_steps"),
    )
    needs_actions = False
    is_masked = False  # whether not every frame sees every frame
    known_models: tuple[str, ...] = ("transformer", "text_encoder")
    default_models = "transformer"
    transformer: WanActTransformer3DModel  # loaded by `build`
    prediction: flow.Prediction
    rows: Sequence[csv.Row]
    latents: Any  # entries by number of clip, like `masks`
    masks: Any
    prompt_of_row: Sequence[Any]

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.chosen = tuple(named_in(config.model.trainable_models or self.default_models))
        self.text_trained = "text_encoder" in self.chosen

    @classmethod
    def check(cls, config: TrainConfig) -> None:
        refuse_unused(cls, config)
        require(config, "dataset_metadata_path", "output_path")
        if not (config.model.model_dir or config.model.model_paths or config.model.model_id_with_origin_paths):
            require(config, "model_dir")
        names = named_in(config.model.trainable_models or cls.default_models)
        unknown = [name for name in names if name not in cls.known_models]
        if unknown:
            raise ConfigError(
                f"--trainable_models {unknown[0]} is unknown in stage {cls.name}; "
                f"choose from {', '.join(cls.known_models)}"
            )
        if config.checkpoint.save_path and ("transformer" not in names or config.model.lora_base_model):
            raise ConfigError("--save_path writes the trained transformer, and none is trained whole here")
        streamed = streams.is_stream(config.data.dataset_metadata_path)
        if streamed:
            refuse_unfit(config)
        elif "cache_disk_gb" in config.given:
            raise ConfigError("--cache_disk_gb has no effect without a stream; all clips of a table are kept")
        elif config.data.encoding == "lazy" and not episodes.is_manifest(Path(config.data.dataset_metadata_path)):
            raise ConfigError("--encoding lazy is for a manifest of episodes; a table is encoded ahead")
        if config.loss.embodiment_aware:
            idm_path(config)

    # Beginning

    def setup(self, processes: Processes) -> None:
        self._begin(processes)
        self._prepare_latents()
        self._prepare_text()
        self._keep_statistics()
        gc.collect()
        self.build()
        self._choose_attention()
        self._set_checkpointing()

    def _begin(self, processes: Processes) -> None:
        """What is to be known before clips are encoded."""
        config = self.config
        self.processes = processes
        self.directory = legacy.base_model_dir(config.model)
        self.take_sizes(model_dir.read_metadata(self.directory)["defaults"])
        scheduler = model_dir.load_components(self.directory, parts=("scheduler",)).scheduler
        self.prediction = flow.prediction_of(scheduler)
        loss = config.loss
        shift = loss.sigma_shift if loss.sigma_shift is not None else float(self.defaults["flow_shift"])
        self.sigmas = SigmaSampler(
            loss.sigma_sampling,
            loss.sigma_mean,
            loss.sigma_std,
            shift,
            loss.min_timestep_boundary,
            loss.max_timestep_boundary,
            loss.loss_weighting,
        )
        self.cache_dir = Path(config.data.cache_dir or Path(config.checkpoint.output_path) / "cache")
        self.streamed = streams.is_stream(config.data.dataset_metadata_path)
        room = config.data.cache_disk_gb * 2**30
        self.room = Room(self.cache_dir, room, processes.count) if self.streamed else None
        self.base = {"model_dir": str(self.directory), "fingerprint": model_dir.fingerprint(self.directory)}

    def take_sizes(self, defaults: Mapping[str, Any]) -> None:
        """How large clips are: as the settings say, or as the model directory likes them."""
        self.defaults, data = defaults, self.config.data
        self.height, self.width = _size(self.config, defaults)
        self.num_frames = data.num_frames or defaults["num_frames"]
        self.num_latent_frames = shapes.num_latent_frames(self.num_frames)
        self.text_length = int(defaults["max_sequence_length"])
        self.choices = sorted({min(c, self.num_latent_frames) for c in data.num_latent_frames_choices or []})

    def build(self) -> None:
        """Load the networks onto the device and fill `modules`."""
        raise NotImplementedError

    def load_parts(self, *parts: str, trained: bool = False, sharded: bool = True) -> Any:
        """Components of the model directory: trained ones in float32, others in the type of computation.

        Args:
            sharded: whether FSDP may split them, which wants one type inside a shard.
        """
        exact = trained or (sharded and self.processes.sharded)
        dtype = torch.float32 if exact else self.processes.compute_dtype
        start = "cpu" if self.config.model.initialize_model_on_cpu else self.device
        components = model_dir.load_components(self.directory, device=start, dtype=dtype, parts=parts)
        for part in parts:
            module = getattr(components, part)
            if isinstance(module, nn.Module):
                module.to(self.device).requires_grad_(False)
        return components

    def load_transformer(self, trained: bool) -> WanActTransformer3DModel:
        """The one that flies. Where it is trained in parts its weights are left in their files, for each process to
        read its own when it has been split."""
        if not (trained and self.processes.sharded and self.reads_in_parts):
            return self.load_parts("transformer", trained=trained).transformer
        network, self.unread["transformer"] = model_dir.open_network(self.directory, "transformer")
        network.rope.to(self.device)
        return network.eval().requires_grad_(False)

    @property
    def reads_in_parts(self) -> bool:
        """Whether nobody asks for the transformer's weights before it is split."""
        return True

    def networks(self) -> list[tuple[WanActTransformer3DModel, bool]]:
        """Every transformer that computes here, and whether not every frame sees every frame in it."""
        return [(self.transformer, self.is_masked)]

    def _choose_attention(self) -> None:
        kernel, device, dtype = self.config.model.attention, torch.device(self.device), self.processes.compute_dtype
        notes = [
            choose_attention(transformer, kernel, device, dtype, for_training=True, is_masked=is_masked)
            for transformer, is_masked in self.networks()
        ]
        for note in dict.fromkeys(notes):
            if note:
                self.processes.print(note)

    def _set_checkpointing(self) -> None:
        """Of the transformers, trained or not: the controller's gradients go through them."""
        if self.checkpoints_blocks():
            if not self.config.model.use_gradient_checkpointing:
                count = sum(parameter.numel() for parameter in self.transformer.parameters())
                self.processes.print(
                    f"gradient checkpointing is on: {count / 1e9:.1f} B parameters do not train without it"
                )
            for transformer, _ in self.networks():
                transformer.enable_gradient_checkpointing()

    def checkpoints_blocks(self) -> bool:
        """Whether blocks are computed again on the way back, and not kept."""
        count = sum(parameter.numel() for parameter in self.transformer.parameters())
        return self.config.model.use_gradient_checkpointing or count > LARGE_NETWORK

    def _clip_encoder(self, keeps: bool = True) -> ClipEncoder:
        autoencoder = self.load_parts("vae", trained=True).vae
        if self.config.log.sample_steps is not None:
            self._sample_vae = autoencoder
        if self.config.data.random_start and not wan_vae.frames_stand_alone(autoencoder):
            raise ConfigError(
                f"--random_start: a latent frame of {type(autoencoder).__name__} depends on those before it, so clips "
                "can only begin where they were encoded from; leave the flag out"
            )
        shape = (self.num_frames, self.height, self.width)
        masks = masks_of(self.config, shapes.latent_size(self.height, self.width), self.device)
        return ClipEncoder(self.config, autoencoder, self.cache_dir if keeps else None, shape, masks, self.room)

    def _prompt_encoder(self, keeps: bool = True) -> PromptEncoder:
        encoder, folder = self.load_parts("text_encoder").text_encoder, self.cache_dir if keeps else None
        return PromptEncoder(
            encoder, self._tokenizer(), folder, self.text_length, self.config.data.cache_dtype, self.room
        )

    def encode_share(self, processes: Processes, part: int, parts: int) -> Share:
        """Encode one of `parts` shares of the clips and words, the one numbered `part` from 0 on, and train nothing."""
        self._begin(processes)
        if self.streamed:
            raise ConfigError("the latents of a stream are written with --shards ADDRESS")
        prompts = None if self.text_trained else self._prompt_encoder()
        encoder = self._clip_encoder()
        return encode_share(Work(self.config, encoder.shape, self.needs_actions), encoder, prompts, part, parts)

    def encode_shards(self, processes: Processes, address: str, rows: int, part: int, parts: int) -> Share:
        """The same into shards at an address, with so many rows in each; nothing is kept in `--cache_dir`."""
        self._begin(processes)
        prompts = None if self.text_trained else self._prompt_encoder(keeps=False)
        encoder = self._clip_encoder(keeps=False)
        writer = ShardWriter(address, rows, self._made_from(encoder, prompts))
        kind = StreamWork if self.streamed else Work
        work = kind(self.config, encoder.shape, self.needs_actions)
        return encode_shards(work, encoder, prompts, writer, part, parts)

    def _made_from(self, encoder: ClipEncoder, prompts: PromptEncoder | None) -> dict[str, Any]:
        text = None if prompts is None else prompts.network
        return encoder.made_from() | {"text": text, "text_length": self.text_length}

    def _prepare_latents(self) -> None:
        """Encode what is not cached, each process its share; leave out and list what cannot be used."""
        if self.streamed:
            return self._prepare_stream()
        config, encoder = self.config.data, self._clip_encoder()
        self.clips: StreamedClips | None = None
        self.lazy = config.encoding == "lazy"
        if self.lazy:
            clips = LazyClips(self.config, encoder, self.needs_actions, self.processes.print)
            self.rows = View(len(clips), clips.row)
            self.latents = View(len(clips), clips.entry)
            self.masks = View(len(clips), partial(clips.entry, cache=1)) if encoder.masks else None
            self._data_fingerprint = clips.fingerprint
            return

        def keep(row: csv.Row, loaded: tuple[Keys, np.ndarray | None]) -> tuple[csv.Row, Keys]:
            encoder.keep(*loaded)
            return row, loaded[0]

        reader = RowReader(
            self.config,
            self.processes,
            self.num_frames,
            self.needs_actions,
            mirror=config.mirror,
            shared=True,
            clip_bytes=3 * self.num_frames * self.height * self.width,
            title="encoding clips",
        )
        made = reader.read(encoder.load, keep)
        self.rows = [row for row, _ in made]
        self.latents, *masks = (
            CachedEntries(cache, [keys[i] for _, keys in made], config.cache_memory_gb * 2**30)
            for i, cache in enumerate(encoder.caches)
        )
        self.masks = masks[0] if masks else None
        digest = hashlib.sha256()
        for row, keys in made:
            track = b"" if row.track is None else row.track.magnitude.tobytes()
            digest.update(f"{keys[0]}\x1f{row.prompt}\x1f".encode() + track)
        self._data_fingerprint = digest.hexdigest()

    def _prepare_stream(self) -> None:
        """Open what is streamed. Where it holds latents, VAE and text encoder leave the device again."""
        config, processes, say = self.config, self.processes, self.processes.print
        address, problem, source = config.data.dataset_metadata_path, None, None
        if processes.is_main:  # it finds out, and the others read it up
            try:
                source = streams.open_source(address, remembered(config), say)
            except (UserError, OSError) as error:
                problem = in_words(error)
        if (problem := processes.broadcast(problem)) is not None:
            raise csv.DataError(problem)
        source = source or streams.open_source(address, remembered(config))
        encoder, prompts = self._clip_encoder(), None if self.text_trained else self._prompt_encoder()
        made = self._made_from(encoder, prompts)
        has_latents = bool(source.made) or LATENTS in source[0].files
        if has_latents and config.data.mirror:
            raise ConfigError("--mirror: latents cannot be mirrored; give it to `train encode --shards`")
        if prompts is not None:
            self._without_words = prompts[""]
        making = None if has_latents else Making(encoder, prompts)
        self.clips = StreamedClips(config, source, made, making, self.needs_actions, say)
        self.clips.row(0)  # latents of another model are found out now
        self.rows = View(len(self.clips), self.clips.row)
        self.latents = View(len(self.clips), self.clips.entry)
        self.masks = self.latents if encoder.masks else None
        self.lazy, self._data_fingerprint = True, self.clips.fingerprint

    def _prepare_text(self) -> None:
        """Token ids of all prompts, and their embeddings unless the text encoder is trained."""
        tokenizer = self._tokenizer()
        if (clips := self.clips) is not None:  # a prompt is known by its clip's number
            self.prompt_of_row = View(len(clips), lambda index: index)
            self.no_prompt: Any = -1
            self.token_ids: Any = ByPrompt(
                lambda n: text.tokenise(tokenizer, ["" if n < 0 else clips.row(n).prompt], self.text_length)[0]
            )
            if not self.text_trained:
                self.embeddings: Any = ByPrompt(lambda n: self._without_words if n < 0 else clips.embedding(n))
            return
        if self.lazy:  # a prompt is its own number
            self.prompt_of_row = View(len(self.rows), lambda index: self.rows[index].prompt)
            self.no_prompt = ""
            self.token_ids = ByPrompt(lambda prompt: text.tokenise(tokenizer, [prompt], self.text_length)[0])
            if not self.text_trained:
                self.embeddings = self._prompt_encoder()
            return
        prompts = sorted({row.prompt for row in self.rows} | {""})
        place = {prompt: i for i, prompt in enumerate(prompts)}
        self.prompt_of_row = [place[row.prompt] for row in self.rows]
        self.no_prompt = place[""]
        self.token_ids = text.tokenise(tokenizer, prompts, self.text_length)
        self._say_what_is_cut(tokenizer, prompts)
        if self.text_trained:
            return
        encoder = self._prompt_encoder()
        # Split before looking at what is there: another process may be writing it now.
        for ids in self.token_ids[self.processes.rank :: self.processes.count]:
            encoder.keep(ids)
        self.processes.barrier()
        keys = [encoder.key(ids) for ids in self.token_ids]
        self.embeddings = CachedEntries(encoder.cache, keys, self.config.data.cache_memory_gb * 2**30)

    def _keep_statistics(self) -> None:
        """Of the actions of episodes, beside the run's settings: what is drawn has to be read in the same units."""
        path = Path(self.config.data.dataset_metadata_path)
        if not self.processes.is_main or self.streamed or not episodes.is_manifest(path):
            return
        with contextlib.suppress(csv.DataError), going_on("the statistics of the actions"):  # there may be none
            found = episodes.statistics(episodes.Manifest(path)).to_dict()
            write_json(Path(self.config.checkpoint.output_path) / "action_statistics.json", found)

    def _say_what_is_cut(self, tokenizer: Any, prompts: list[str]) -> None:
        """Words that nobody reads are no secret: a prompt beyond the encoder's length, or no prompt anywhere."""
        if prompts == [""]:
            self.processes.print("no row has a prompt: the model learns without words")
        full = [p for p, ids in zip(prompts, self.token_ids, strict=True) if len(ids) == self.text_length]
        cut = [(prompt, end) for prompt in full if (end := unread(tokenizer, prompt, self.text_length))]
        if cut:
            prompt, end = cut[0]
            self.processes.print(
                f"{len(cut)} of {len(prompts)} prompts have more than the {self.text_length} tokens that are read; "
                f"of “{prompt[:40]}…” this is not: “{end}”"
            )

    def _tokenizer(self) -> Any:
        if self.config.model.tokenizer_path:
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(self.config.model.tokenizer_path)
        return model_dir.load_components(self.directory, parts=("tokenizer",)).tokenizer

    # Data

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def data_fingerprint(self) -> str:
        return self._data_fingerprint

    def order(self, seed: int, epoch: int, repeat: int) -> Tensor | None:
        return None if self.clips is None else self.clips.order(seed, epoch, repeat)

    @property
    def read_ahead(self) -> int:
        return max(1, self.config.data.dataset_num_workers) if self.streamed else 1

    def load(self, draws: list[Draw]) -> dict[str, Any]:
        """Micro-batch: latents and noise [B, C, T, h, w], sigma and weight [B], prompts, and what a subclass adds."""
        frames = self._prefix(draws[0])
        if frames == 1:
            draws = [draw.again(number) for draw in draws for number in range(self.config.data.pictures_per_clip)]
        latents = torch.stack([self._clip(draw, frames) for draw in draws]).float()
        noise = torch.stack([torch.randn(latents.shape[1:], generator=draw.generator("noise")) for draw in draws])
        uniform = torch.stack([torch.rand((), generator=draw.generator("sigma")) for draw in draws])
        sigma = self.sigmas.sigma(uniform)
        from_words = 1.0 if frames == 1 else self.config.loss.first_frame_dropout  # a single picture is never given
        dropped = torch.tensor([draw_fraction(draw, "first_frame") < from_words for draw in draws])
        batch = {"latents": latents, "noise": noise, "sigma": sigma, "weight": self._weight(sigma)}
        batch |= {"from_words": dropped} | self.emphasis(draws, frames)
        return batch | self._prompts(draws) | self.conditions(draws, frames)

    def _weight(self, sigma: Tensor) -> Tensor:
        return self.sigmas.weight(sigma) * flow.loss_weight(sigma, self.prediction)

    def _prefix(self, draw: Draw) -> int:
        """Latent frames of this step's clips, one number for the whole step."""
        if not self.choices:
            return self.num_latent_frames
        pick = torch.randint(len(self.choices), (), generator=draw.step_generator("num_latent_frames"))
        return self.choices[int(pick)]

    def _start(self, draw: Draw, frames: int) -> int:
        """The latent frame at which this sample of so many begins."""
        if not self.config.data.random_start:
            return 0
        return int(torch.randint(self.num_latent_frames - frames + 1, (), generator=draw.generator("start")))

    def _clip(self, draw: Draw, frames: int) -> Tensor:
        """Latents [C, frames, h, w] of this sample."""
        entry, start = self.latents[draw.index], self._start(draw, frames)
        if start == 0:
            return entry["latents"][:, :frames]
        first, others = entry["starts"][:, start : start + 1], entry["latents"][:, start + 1 : start + frames]
        return torch.cat([first, others], dim=1)

    def emphasis(self, draws: list[Draw], frames: int, late: int = 0) -> dict[str, Tensor]:
        """How much the errors of each sample count, [B, 1, T, h, w]; nothing where all count alike.

        Args:
            late: latent frames that are left out after the first.
        """
        if self.masks is None:
            return {}
        masks = []
        for draw in draws:
            mask, start = self.masks[draw.index]["mask"].float(), self._start(draw, frames)
            masks.append(torch.cat([mask[:, start : start + 1], mask[:, start + late + 1 : start + late + frames]], 1))
        return {"emphasis": 1 + self.config.loss.eta * torch.stack(masks)}

    def _prompts(self, draws: list[Draw]) -> dict[str, Tensor]:
        kept = [draw_fraction(draw, "prompt") >= self.config.loss.prompt_dropout for draw in draws]
        which = [self.prompt_of_row[d.index] if keep else self.no_prompt for d, keep in zip(draws, kept, strict=True)]
        return self._prompt_batch(which)

    def _prompt_batch(self, which: list[int]) -> dict[str, Tensor]:
        """Prompts by their number, as ids or as embeddings."""
        if self.text_trained:
            ids, mask = text.pad_ids([self.token_ids[i] for i in which])
            return {"token_ids": ids, "token_mask": mask}
        embeddings = [self.embeddings[i]["embedding"].float() for i in which]
        return {"context": text.pad_embeddings(embeddings, self.text_length)}

    def conditions(self, draws: list[Draw], frames: int) -> dict[str, Any]:
        """What else the transformer is given."""
        return {}

    # Loss

    def loss(self, batch: dict[str, Any], phase: str) -> StepLoss:
        latents, noise, sigma = batch["latents"], batch["noise"], batch["sigma"]
        noisy = flow.interpolate(latents, noise, sigma.view(-1, 1, 1, 1, 1))
        timestep = (1000.0 * sigma)[:, None].repeat(1, latents.shape[2])  # [B, T]
        given = ~batch["from_words"]  # samples whose first frame is known
        noisy[given, :, :1] = latents[given, :, :1]
        timestep[given, 0] = 0.0
        with self._offload():
            velocity = self.predict(noisy, timestep, self._context(batch), batch)
        counted = torch.ones(len(latents), 1, latents.shape[2], 1, 1, device=latents.device)
        counted[given, :, 0] = 0
        loss = flow_matching_loss(velocity, latents, noise, counted, emphasis=batch.get("emphasis"))
        return StepLoss(loss * batch["weight"], {"velocity_error": loss.detach()})

    def _context(self, batch: dict[str, Any]) -> Tensor:
        if not self.text_trained:
            return batch["context"]
        return text.embed(self.modules["text_encoder"], batch["token_ids"], batch["token_mask"], self.text_length)

    def predict(self, noisy: Tensor, timestep: Tensor, context: Tensor, batch: dict[str, Any]) -> Tensor:
        """Velocity [B, C, T, h, w]."""
        return self.velocity(self.transformer(noisy, timestep, context, return_dict=False)[0], noisy, timestep)

    def velocity(self, output: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """The velocity that the transformer's output stands for; `timestep` is [B, T]."""
        return flow.velocity_of(output, noisy, timestep[:, None, :, None, None] / 1000.0, self.prediction)

    def _offload(self) -> Any:
        offload = self.config.model.use_gradient_checkpointing_offload and self.device.type != "cpu"
        return torch.autograd.graph.save_on_cpu(pin_memory=True) if offload else contextlib.nullcontext()

    def shard_units(self) -> list[nn.Module]:
        if not self.text_trained:
            return [*self.transformer.blocks]
        encoder = self.modules["text_encoder"]
        assert isinstance(encoder, UMT5EncoderModel), "the only text encoder that `load_parts` knows"
        return [*self.transformer.blocks, *encoder.encoder.block]

    # Results

    def sample(self, folder: Path, step: int) -> None:
        """Clips from the first rows' first frames, words and tracks, as mp4."""
        for index in range(min(self.config.log.sample_count, len(self.rows))):
            latents = self._sample_latents(index)
            if self.processes.is_main:
                frames = wan_vae.decode(self._sample_vae, latents.to(self._sample_vae.device))
                with going_on(f"sample {index} of step {step}"):
                    video.write_mp4(video.to_uint8(frames[0]), folder / f"clip{index}.mp4", fps=self.config.data.fps)

    def _sample_latents(self, index: int) -> Tensor:
        draw = Draw(index, index, 0, self.config.optim.seed, "sample")
        clean = self.latents[index]["latents"][None].float()
        noise = torch.randn(clean.shape, generator=draw.generator("noise"))
        batch = self.conditions([draw], self.num_latent_frames) | self._prompt_batch([self.prompt_of_row[index]])
        batch = {name: value.to(self.device) for name, value in batch.items()}
        empty = {name: value.to(self.device) for name, value in self._prompt_batch([self.no_prompt]).items()}
        steps = self.config.log.sample_inference_steps or self.defaults["num_inference_steps"]
        with torch.no_grad(), self.processes.autocast():
            return samples.denoise(
                lambda latents, timestep, context: self.predict(latents, timestep, context, batch),
                clean[:, :, :1].to(self.device),
                noise.to(self.device),
                (self._context(batch), self._context(empty)),
                self.inference_sigmas(steps),
                self.defaults["guidance_scale"],
            )

    def inference_sigmas(self, num_steps: int) -> Tensor:
        """The noise levels that the model directory's clips are drawn through."""
        return flow.inference_sigmas(num_steps, float(self.defaults["flow_shift"]), self.defaults["sigma_grid"])

    def run_config(self) -> dict[str, Any]:
        """What action_train_config.json says in every stage; the plan's inference reads `base_model_id` or
        `base_model_dir`, and `lora`."""
        named = self.config.model.model_id_with_origin_paths or self.config.model.model_dir or ""
        hub_id = layouts.hub_id(named)
        return {
            **({"base_model_id": hub_id} if hub_id else {"base_model_dir": self.base["model_dir"]}),
            "base_model": self.base["model_dir"],
            "base_fingerprint": self.base["fingerprint"],
            "stage": self.name,
            "lora": NO_LORA_CONFIG,
        }

    def export_model_dir(self, folder: Path, weights: dict[str, Tensor]) -> None:
        trained = export.split_modules(weights)
        networks = {name: trained[name] for name in ("transformer", "text_encoder") if name in trained}
        export.write_model_dir(self.directory, folder, networks, self.config.checkpoint.export_dtype)

    def export_file(self, file: Path, weights: dict[str, Tensor], origin: dict[str, Any]) -> None:
        dtype = getattr(torch, self.config.checkpoint.export_dtype)
        trained = {name: value.to(dtype) for name, value in export.split_modules(weights)["transformer"].items()}
        causal = (self.export_config() or ("", {}))[1].get("causal")
        said = {"model_class": "WanModel" if causal is None else "WanModelCausal", "causal": causal}
        kept: Any = self.transformer.config  # a dict, whose keys its type tells as attributes
        config = {name: value for name, value in kept.items() if not name.startswith("_")}
        export.write_original(file, trained, config, said, origin)


def draw_fraction(draw: Draw, purpose: str) -> float:
    """A number in [0, 1) that belongs to this sample and purpose."""
    return float(torch.rand((), generator=draw.generator(purpose)))


def _size(config: TrainConfig, defaults: Mapping[str, Any]) -> tuple[int, int]:
    height = config.data.height or defaults["height"]
    width = config.data.width or defaults["width"]
    limit = config.data.max_pixels
    if limit is not None and height * width > limit:
        factor = math.sqrt(limit / (height * width))
        step = shapes.SIZE_MULTIPLE
        height, width = (max(step, int(side * factor) // step * step) for side in (height, width))
    shapes.check_size(height, width)
    return height, width
