{{ config(materialized='ephemeral') }}
select number * 2 as number from {{ ref('ephemeral_first') }}
