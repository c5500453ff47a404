"""Flags of ms-swift 4.x that are known and not supported yet, by topic. Names only."""

_TOPICS = {
    "GaLore, LISA, ReFT, LLaMAPro and other tuners": """
        adalora_beta1 adalora_beta2 adalora_deltaT adalora_init_r adalora_orth_reg_weight
        adalora_target_r adalora_tfinal adalora_tinit adapter_act adapter_length
        boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor
        fourier_n_frequency fourier_scaling galore_cos_threshold galore_gamma_proj
        galore_optim_per_parameter galore_proj_bits galore_proj_group_size galore_proj_quant
        galore_proj_type galore_quantization galore_queue_size galore_rank galore_scale
        galore_target_modules galore_update_proj_gap galore_with_embedding
        lisa_activated_layers lisa_step_interval llamapro_num_groups llamapro_num_new_blocks
        lora_ga_batch_size lora_ga_direction lora_ga_iters lora_ga_max_length lora_ga_scale
        lora_ga_stable_gamma lorap_lr_ratio reft_args reft_intervention_type reft_layer_key
        reft_layers reft_rank target_parameters use_galore use_swift_lora vera_d_initial
        vera_dropout vera_projection_prng_key vera_rank
    """,
    "Megatron": """
        attention_backend context_parallel_size cross_entropy_fusion_impl
        cross_entropy_loss_fusion decoder_first_pipeline_num_layers
        decoder_last_pipeline_num_layers eval_iters exp_avg_dtype exp_avg_sq_dtype
        expert_model_parallel_size expert_tensor_parallel_size finetune fp8_format
        fp8_param_gather fp8_recipe global_batch_size gradient_accumulation_fusion
        linear_decoupled_in_proj lr lr_warmup_fraction lr_warmup_iters masked_softmax_fusion
        mcore_adapter mcore_model micro_batch_size min_lr moe_aux_loss_coeff
        moe_expert_capacity_factor moe_grouped_gemm moe_permute_fusion moe_router_dtype
        moe_shared_expert_overlap mtp_num_layers no_save_optim no_save_rng offload_bridge
        optimizer_cpu_offload optimizer_offload_fraction overlap_grad_reduce
        overlap_param_gather pipeline_model_parallel_size recompute_granularity
        recompute_method recompute_modules recompute_num_layers save_missing_weights
        sequence_parallel tensor_model_parallel_size test_convert_dtype
        test_convert_precision thread_count to_hf to_mcore train_iters
        use_precision_aware_optimizer
    """,
    "serving": """
        device_groups ray_exp_name use_ray
    """,
    "quantization": """
        bnb_4bit_compute_dtype bnb_4bit_quant_storage bnb_4bit_quant_type
        bnb_4bit_use_double_quant group_size hqq_axis quant_batch_size quant_bits
        quant_method quant_n_samples
    """,
    "export": """
        commit_message exist_ok hub_always_push
        hub_model_id hub_private_repo hub_revision hub_strategy hub_token push_to_hub
        template_mode to_ollama to_peft_format
    """,
    "evaluation": """
        eval_backend eval_dataset eval_dataset_args eval_generation_config eval_limit
        eval_metric eval_url eval_use_evalscope extra_eval_args metric predict_with_generate
    """,
    "other engines": """
        lmdeploy_vision_batch_size
        sglang_disable_cuda_graph sglang_disable_custom_all_reduce sglang_dp_size
        sglang_enable_dp_attention sglang_enable_ep_moe sglang_ep_size sglang_kv_cache_dtype
        sglang_pp_size sglang_quantization
        sglang_speculative_algorithm sglang_speculative_eagle_topk
        sglang_speculative_num_draft_tokens sglang_speculative_num_steps
    """,
    "classification, embedding and reranking": """
        reranker_use_activation
    """,
    "trackers": """
        swanlab_email_language swanlab_exp_name swanlab_mode swanlab_notification_method
        swanlab_project swanlab_receiver_email swanlab_secret swanlab_sender_email
        swanlab_smtp_port swanlab_smtp_server swanlab_token swanlab_webhook_url
        swanlab_workspace trackio_bucket_id trackio_space_id trackio_static_space_id
    """,
    "": """
        acc_strategy accelerator_config add_non_thinking_prefix agent_template
        auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16_full_eval
        callbacks config create_checkpoint_symlink custom_dataset_info custom_register_path
        dataloader_in_order dataloader_multiprocessing_context dataloader_prefetch_factor
        ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_static_graph debug
        decision_drop_instructions decision_shuffle_fields decision_state_as_text
        decision_subsample_options deepspeed_autotp_size device_map
        disable_auto_column_mapping disable_ignore_empty_think disable_tqdm do_eval
        do_predict do_train download_mode ds3_gather_for_generation enable_channel_loss
        enable_dft_loss enable_jit_checkpoint enable_npu_model_patch
        eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start
        eval_use_gather_object experts_impl fp16_full_eval freeze_parameters_ratio
        fsdp_config generation_config generation_max_length generation_num_beams
        greater_is_better ignore_args_error ignore_data_skip
        include_for_metrics include_num_input_tokens_seen init_strategy
        is_binary_loss_scale length_column_name liger_kernel_config load_best_model_at_end
        local_rank local_repo_path log_level log_level_replica log_on_each_node logging_dir
        logging_nan_inf_filter logging_strategy logprobs lr_scheduler_kwargs
        max_memory model_kwargs neftune_noise_alpha new_special_tokens
        optim_args optim_target_modules optimizer packing_strategy
        padding_side parallelism_config prediction_loss_only preserve_thinking project
        restore_callback_states_from_checkpoint resume_only_model
        rope_scaling save_on_each_node skip_memory_metrics
        sortish_sampler structured_outputs_regex tf32 top_logprobs
        torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps
        train_sampling_strategy trainable_parameters_regex use_cache use_cpu use_flash_ckpt
        val_dataset_sample zero_hpz_partition_size
    """,
}

LATER: dict[str, str] = {name: topic for topic, names in _TOPICS.items() for name in names.split()}
"""Flag -> what it belongs to ("" where nothing more can be said)."""

LATER_VALUES: dict[str, frozenset[str]] = {
    path: frozenset(words.split())
    for path, words in {
        "tuner.kind": """
        adalora adapter boft bone fourierft ia3 llamapro longlora lora_llm oft reft vera
        """,
        "optimizer.kind": """
        adafactor adamw_8bit adamw_bnb_8bit galore lomo muon paged_adamw_8bit sgd
        """,
        "schedule.kind": """
        cosine_with_restarts cosine_warmup_with_min_lr greedy inverse_sqrt polynomial
        reduce_lr_on_plateau
        """,
    }.items()
}
"""Setting -> values of ms-swift 4.x that are known and not supported yet."""
