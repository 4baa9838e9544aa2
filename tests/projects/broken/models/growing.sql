{{ config(materialized='incremental', unique_key='number', on_schema_change='fail') }}
select number {% if 'schema_change' in var('broken') %}, 1 as extra {% endif %} from {{ ref('solid') }}
