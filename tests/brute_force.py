"""The straightforward implementation of modulated denoising, as the paper describes it: one mask and one sign at a time,
with the attention maps of the unmodulated trajectory stored for every layer and step, and put in place of the run's own."""

from emerdiff_lib.attention import attention_layers, attention_processors, layer_grid
from emerdiff_lib.inversion import reverse_step


class StoredMaps:
    """Explicit softmax attention that records its probabilities, or uses recorded ones."""

    def __init__(self, maps, name, offset=None, placement="after_projection"):
        self.maps, self.name, self.offset, self.placement, self.recording = maps, name, offset, placement, False

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(a) for a in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        own = attn.get_attention_scores(query, key)
        if self.recording:
            self.maps[self.name] = own
        probabilities = self.maps.get(self.name, own)
        output = attn.batch_to_head_dim(probabilities @ value)
        if self.offset is not None and self.placement == "before_projection":
            output = output + self.offset
        output = attn.to_out[1](attn.to_out[0](output))
        if self.offset is not None and self.placement == "after_projection":
            output = output + self.offset
        return output


def modulated_latents(
    denoiser, trajectory, mask, strength, layer, timestep, injection=True, placement="after_projection"
):
    """x₀ of a single run in which ``strength`` · ``mask`` is added at ``timestep``; mask (h, w) on the layer's own grid."""
    original = modulated = trajectory.latents[timestep]
    height, width = layer_grid(denoiser.unet, layer, *original.shape[2:])
    assert mask.shape == (height, width)
    for t in trajectory.timesteps[trajectory.timesteps.index(timestep) :]:
        maps = {}
        names = attention_layers(denoiser.unet)
        processors = {name: StoredMaps(maps, name) for name in names}
        for processor in processors.values():
            processor.recording = True
        with attention_processors(denoiser.unet, processors):
            original_next = reverse_step(denoiser, trajectory, original, t)
        if not injection:
            maps.clear()
        processors = {name: StoredMaps(maps, name) for name in names}
        if t == timestep:
            processors[layer].offset = strength * mask.float().reshape(1, -1, 1)
            processors[layer].placement = placement
        with attention_processors(denoiser.unet, processors):
            modulated = reverse_step(denoiser, trajectory, modulated, t)
        original = original_next
    return modulated
