{{ config(materialized='incremental', incremental_strategy='microbatch', event_time='day', batch_size='year', begin='2024-01-01', unique_key=('number' if target.type == 'postgres' else none)) }}
{% if 'batch' in var('broken') and model.batch and model.batch.id == '2025' %}select no_such_column from {{ ref('staging') }}
{% elif 'batches' in var('broken') %}select no_such_column from {{ ref('staging') }}
{% else %}select number, day from {{ ref('staging') }}{% endif %}
