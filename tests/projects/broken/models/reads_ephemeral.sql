{{ config(materialized='table') }}
select number from {{ ref('ephemeral_second') }}
