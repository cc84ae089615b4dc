# One command for each encoder, from the faces to the files that are served:
#
#     make -f model/retrain.mk tessera-l FACES="faces.parquet faces-2.parquet" RETAIL=FOLDER RUNS=runs
#
# RETAIL is the folder with the second teacher's files (docs/training.md). Training that was interrupted goes on where it stood. The weights
# go to RUNS/weights; compare them with those that are served before you put them in their place.
RUNS ?= runs
PYTHON ?= .venv/bin/python
RETAIL ?= teachers
PACKED := $(RUNS)/faces
# PyTorch's depthwise layers train at twice the rate where the process keeps the memory that it has used (glibc).
TRAIN := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 $(PYTHON) -m model.training.train

.PHONY: tessera-l tessera-m tessera-s textbook
.SECONDARY:

tessera-l: $(RUNS)/tessera-l/triplet.pt
	$(call serve,$@,$<,4)

tessera-m: $(RUNS)/tessera-m/triplet.pt
	$(call serve,$@,$<,4)

tessera-s: $(RUNS)/tessera-s/triplet.pt
	$(call serve,$@,$<,2)

textbook: $(RUNS)/textbook/triplet.pt $(RUNS)/textbook-from-start/triplet.pt

define serve
	$(PYTHON) -m model.export $(2) $(RUNS)/weights/$(1) --name $(1) --version $(3)
	$(PYTHON) -m model.quantise $(PACKED) $(RUNS)/weights/$(1)
	$(PYTHON) -m model.cohort $(PACKED) $(RUNS)/weights/$(1)
	$(PYTHON) -m model.calibrate $(PACKED) $(RUNS)/weights/$(1)
endef

$(RUNS)/%/triplet.pt: model/recipes/%.toml $(PACKED)/teacher-sface.npy $(PACKED)/teacher-retail-0095.npy
	$(TRAIN) $< --faces $(PACKED) --out $(@D)

$(RUNS)/tessera-m/triplet.pt $(RUNS)/textbook-from-start/triplet.pt: $(RUNS)/retail-0095/aligned.pt
$(RUNS)/tessera-l/triplet.pt: $(RUNS)/tessera-l-fused/fused.pt

$(RUNS)/tessera-l-fused/fused.pt: $(RUNS)/tessera-m/triplet.pt $(RUNS)/tessera-l-2/triplet.pt
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 $(PYTHON) -m model.fuse $(PACKED) $@ $^

$(RUNS)/retail-0095/aligned.pt: $(PACKED)/teacher-sface.npy $(PACKED)/teacher-retail-0095.npy
	$(PYTHON) -m model.training.warm_start $(PACKED) $@ --retail $(RETAIL)

$(PACKED)/teacher-retail-0095.npy: $(PACKED)/faces.parquet
	$(PYTHON) -m model.training.teacher $(PACKED) --retail $(RETAIL)

$(PACKED)/teacher-sface.npy: $(PACKED)/faces.parquet
	$(PYTHON) -m model.training.teacher $(PACKED)

$(PACKED)/faces.parquet:
	$(PYTHON) -m model.data.prepare parquet $(FACES) $(PACKED)
