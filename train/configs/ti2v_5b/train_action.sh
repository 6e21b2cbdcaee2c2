#!/usr/bin/env bash
# Train the action controller of Wan2.2-TI2V-5B on drone clips. The base model stays frozen.
#
#   DATASET_BASE=/data/sekai-drone MODEL_DIR=/models/Wan2.2-TI2V-5B train/configs/ti2v_5b/train_action.sh
#
# Further flags are handed on and win over those below; running the same command again resumes.
set -euo pipefail
: "${DATASET_BASE:?set DATASET_BASE to the folder with the clips}"
: "${MODEL_DIR:?set MODEL_DIR to the Wan2.2-TI2V-5B model directory}"
METADATA_PATH=${METADATA_PATH:-${DATASET_BASE}/clips_metadata_diffsynth.csv}
OUTPUT_PATH=${OUTPUT_PATH:-./models/train/Wan2.2-TI2V-5B_action_controller}

accelerate launch ${ACCELERATE_FLAGS:-} -m train action \
    --dataset_base_path "${DATASET_BASE}" \
    --dataset_metadata_path "${METADATA_PATH}" \
    --data_file_keys "video" \
    --dataset_num_workers 16 \
    --model_dir "${MODEL_DIR}" \
    --trainable_models "action_controller" \
    --action_controller_config "wan_ti2v_5b" \
    --action_injection_type "cross_attn_frame" \
    --action_initial_scale 0.01 \
    --learning_rate 1e-4 \
    --lr_warmup_ratio 0.05 \
    --lr_min_lr 5e-6 \
    --weight_decay 0.01 \
    --max_steps 40000 \
    --log_steps 10 \
    --save_steps 5000 \
    --use_wandb \
    --wandb_project "wan-ti2v-action" \
    --wandb_run_name "action-controller" \
    --gradient_accumulation_steps 4 \
    --height 480 \
    --width 832 \
    --num_frames 81 \
    --save_full_state \
    --output_path "${OUTPUT_PATH}" \
    "$@"
